// Package router is CSI's Identity, Controller and GroupController for a cluster whose nodes are
// linked: it sends each call to the node that has the volume, chooses a node where the caller
// leaves it open, and answers from memory what the nodes have pushed. It keeps nothing that the
// nodes cannot push again.
package router

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/identity"
	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Placement says on which node a volume is made if any will do.
type Placement string

const (
	// Spread takes the node with most room.
	Spread Placement = "spread"
	// Pack takes the node with least room that has enough.
	Pack Placement = "pack"
)

// ParsePlacement reads a Placement. Errors: ErrInvalid.
func ParsePlacement(s string) (Placement, error) {
	switch p := Placement(s); p {
	case Spread, Pack:
		return p, nil
	default:
		return "", fmt.Errorf("%w: placement %q: want %s or %s", volume.ErrInvalid, s, Spread, Pack)
	}
}

// Claim names a PersistentVolumeClaim.
type Claim struct{ Namespace, Name string }

// Recorder keeps where a claim's volume is made, so that a repeated call goes to the same node.
type Recorder interface {
	// Record says on which node the volume is made: the one that was recorded before, else the given
	// one, which is then recorded, for all replicas, also after a crash.
	Record(ctx context.Context, claim Claim, node string) (recorded string, err error)
}

// Options are what a Router works with.
type Options struct {
	// DriverName is the driver's. Required.
	DriverName string
	// Namespace is where the driver's pods are, for what messages tell an operator to look at.
	Namespace string
	// Placement is for volumes that may be on any node. Default: Spread.
	Placement Placement
	// Recorder keeps where volumes of claims are made. Default: memory, which also has the volumes
	// without a claim.
	Recorder Recorder
	// AwaitNodes says that SetNode is going to say which nodes the cluster has: until NodesRead no
	// list is complete.
	AwaitNodes bool
	// Logger takes the log. Default: klog.Background().
	Logger klog.Logger
	// Registerer gets the metrics. Default: none, the metrics cannot be read.
	Registerer prometheus.Registerer
}

// Router implements csi.ControllerServer, csi.GroupControllerServer and link.Fleet. What it does
// not implement answers UNIMPLEMENTED and is not advertised.
type Router struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer

	opts    Options
	logger  klog.Logger
	started time.Time
	fleet   *fleet
	memory  *memory
	metrics *metrics

	watching context.Context //nolint:containedctx // of the goroutines that Linked starts
	stop     context.CancelFunc
	watches  sync.WaitGroup
}

var (
	_ csi.ControllerServer = (*Router)(nil)
	_ link.Fleet           = (*Router)(nil)
)

// New makes a Router. The caller closes it. It registers metrics, so a second call with the same
// Registerer panics.
func New(opts Options) *Router {
	if opts.Placement == "" {
		opts.Placement = Spread
	}
	if opts.Logger.IsZero() {
		opts.Logger = klog.Background()
	}
	read := objectsUnknown
	if opts.AwaitNodes {
		read = objectsAwaited
	}
	r := &Router{
		opts:    opts,
		logger:  opts.Logger,
		started: time.Now(),
		fleet:   newFleet(opts.Logger, read),
		memory:  newMemory(),
	}
	r.metrics = newMetrics(r.fleet, opts.Registerer)
	r.watching, r.stop = context.WithCancel(context.Background())
	return r
}

// Close stops following the nodes, and waits until that has ended. No link may come after it.
func (r *Router) Close() {
	r.stop()
	r.watches.Wait()
}

// NewServer returns a server of the router's services for the sidecars' socket.
func (r *Router) NewServer() *grpc.Server {
	options := append(rpc.FloodControl(rpc.RouterBounds()), rpc.GiveRequestIDs())
	options = append(options,
		rpc.ServerOptions(rpc.Options{
			Logger: r.logger, Registerer: r.opts.Registerer, Scope: rpc.ManyNodes,
		})...)
	server := grpc.NewServer(options...)
	r.Register(server)
	return server
}

// Register adds the router's services to a server.
func (r *Router) Register(server *grpc.Server) {
	// Ready also without nodes: a call says which node it lacks, and the others go on.
	ready := func() error { return nil }
	csi.RegisterIdentityServer(server, &identity.Server{
		Name: r.opts.DriverName, NotReady: ready, More: identity.GroupSnapshots(),
	})
	csi.RegisterControllerServer(server, r)
	csi.RegisterGroupControllerServer(server, r)
}

// NodeOf is the node that has a pool, or had it last; false if none is known.
func (r *Router) NodeOf(id volume.PoolID) (node string, known bool) {
	if n := r.fleet.ownerOf(id); n != nil {
		return n.name, true
	}
	return "", false
}
