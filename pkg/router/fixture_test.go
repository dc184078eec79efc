package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"k8s.io/klog/v2/textlogger"

	"github.com/csi-hostpath/csi-hostpath/pkg/controllerserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	driverName = "hostpath.csi.local"
	mib        = 1 << 20
	deadline   = 2 * time.Minute
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// cluster is a router whose sidecars call it through its server, and its nodes.
type cluster struct {
	*Router
	t        *testing.T
	client   csi.ControllerClient
	groups   csi.GroupControllerClient
	identity csi.IdentityClient
	registry *prometheus.Registry
	log      *process.Log
}

func newCluster(t *testing.T, opts Options) *cluster {
	t.Helper()
	c := &cluster{t: t, registry: prometheus.NewRegistry(), log: &process.Log{}}
	opts.DriverName, opts.Namespace, opts.Registerer = driverName, "csi-hostpath", c.registry
	opts.Logger = textlogger.NewLogger(
		textlogger.NewConfig(textlogger.Output(c.log), textlogger.Verbosity(3)))
	c.Router = New(opts)
	conn := serve(t, c.NewServer())
	c.client, c.identity = csi.NewControllerClient(conn), csi.NewIdentityClient(conn)
	c.groups = csi.NewGroupControllerClient(conn)
	t.Cleanup(c.Close)
	return c
}

// untilHandlersEnd is for servers whose calls read pools that are closed afterwards.
var untilHandlersEnd = grpc.WaitForHandlers(true)

// serve serves until the test ends, and returns a connection.
func serve(t testing.TB, server *grpc.Server) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return listener.DialContext(ctx)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		wg.Wait()
	})
	return conn
}

// testNode is a node with the real Controller service over real pools, which pushes what it is
// told.
type testNode struct {
	csi.ControllerServer
	linkpb.UnimplementedNodeServer

	c     *cluster
	name  string
	conn  *grpc.ClientConn
	link  *link.Link
	log   *process.Log
	calls chan string // the methods of the calls, as they arrive

	mu     sync.Mutex
	pools  nodePools
	state  *linkpb.State
	pushed chan struct{} // closed and replaced when state changes
	before func(ctx context.Context, method string) error
	lose   func() bool // whether a call's answer is lost
}

// nodePools implements controllerserver.Pools.
type nodePools []*pool.Pool

func (s nodePools) ByID(id volume.PoolID) (*pool.Pool, error) {
	for _, p := range s {
		if p.ID() == id {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: this node has no pool %s", volume.ErrNotFound, id)
}

func (s nodePools) ByName(name string) (*pool.Pool, error) {
	for i, p := range s {
		if p.Name() == name || name == "" && i == 0 {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: this node has no pool %q", volume.ErrNotFound, name)
}

func (nodePools) Complete() error { return nil }

func (s nodePools) Known() (known []health.Pool) {
	for _, p := range s {
		known = append(known, health.Pool{Name: p.Name(), Pool: p})
	}
	return known
}

func (s nodePools) Candidates(id volume.PoolID) ([]health.Pool, error) {
	p, err := s.ByID(id)
	if err != nil {
		return nil, err
	}
	return []health.Pool{{Name: p.Name(), Pool: p}}, nil
}

func (s nodePools) Open() []*pool.Pool {
	return slices.SortedFunc(slices.Values(s),
		func(a, b *pool.Pool) int { return strings.Compare(string(a.ID()), string(b.ID())) })
}

// anyPath implements controllerserver.Host.
type anyPath struct{}

func (anyPath) Check(hostpath.Use) error { return nil }

// onlyOfWeb has repositories of one server for one namespace.
func onlyOfWeb(t testing.TB) *gitsource.Rules {
	t.Helper()
	prefix, err := volume.ParseGitPrefix("https://git.example.com/")
	fixture.Must(t, err)
	return gitsource.NewRules([]gitsource.Rule{
		{Prefix: prefix, Namespaces: []string{"web"}, MaxSizeBytes: gib},
	})
}

type nothingPublished struct{}

func (nothingPublished) CheckUnused(context.Context, volume.ID, *os.File) error { return nil }

// addNode links a node with a pool for each name; the first is the default.
func (c *cluster) addNode(name string, pools ...string) *testNode {
	c.t.Helper()
	n := c.newNode(name, pools...)
	n.connect()
	n.waitPushed()
	return n
}

func (c *cluster) newNode(name string, pools ...string) *testNode {
	c.t.Helper()
	disks.RequireRoot(c.t)
	n := &testNode{
		c: c, name: name, log: &process.Log{}, pushed: make(chan struct{}),
		calls: make(chan string, 10_000),
	}
	for _, p := range pools {
		n.pools = append(n.pools, openPool(c.t, p, filepath.Join(c.t.TempDir(), p)))
	}
	n.serve()
	return n
}

func openPool(t *testing.T, name, path string) *pool.Pool {
	t.Helper()
	p, err := pool.Open(t.Context(), pool.Options{Name: name, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return p
}

// serve starts the node's server.
func (n *testNode) serve() {
	service := controllerserver.New(controllerserver.Options{
		Topology:     volume.Topology(driverName, n.name),
		Pools:        n.pools,
		Publications: nothingPublished{},
		Host:         anyPath{},
		Git:          onlyOfWeb(n.c.t),
	})
	n.ControllerServer = service
	logger := textlogger.NewLogger(
		textlogger.NewConfig(textlogger.Output(n.log), textlogger.Verbosity(3)))
	options := append([]grpc.ServerOption{rpc.TakeRequestIDs(), untilHandlersEnd},
		rpc.ServerOptions(rpc.Options{Logger: logger})...)
	server := rpc.NewServer(append(options, grpc.ChainUnaryInterceptor(n.intercept)))
	csi.RegisterControllerServer(server, n)
	csi.RegisterGroupControllerServer(server, service)
	linkpb.RegisterNodeServer(server, n)
	n.conn = serve(n.c.t, server)
}

func (n *testNode) intercept(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	n.calls <- method
	n.mu.Lock()
	before, lose := n.before, n.lose
	n.mu.Unlock()
	if before != nil {
		if err := before(ctx, method); err != nil {
			return nil, err
		}
	}
	resp, err := handler(ctx, req)
	if lose != nil && lose() {
		return nil, status.Error(codes.Unavailable, "the answer is lost")
	}
	return resp, err
}

// doBefore is called before each call from now on.
func (n *testNode) doBefore(before func(ctx context.Context, method string) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.before = before
}

// fixed answers with what it is told.
type fixed struct {
	csi.ControllerServer

	volume *csi.Volume
	list   *csi.ListVolumesResponse
}

// CreateVolume implements csi.ControllerServer.
func (f fixed) CreateVolume(
	context.Context, *csi.CreateVolumeRequest,
) (*csi.CreateVolumeResponse, error) {
	return &csi.CreateVolumeResponse{Volume: f.volume}, nil
}

// ListVolumes implements csi.ControllerServer.
func (f fixed) ListVolumes(
	context.Context, *csi.ListVolumesRequest,
) (*csi.ListVolumesResponse, error) {
	return f.list, nil
}

func (n *testNode) answer(v *csi.Volume) { n.lie(fixed{volume: v}) }

func (n *testNode) answerList(list *csi.ListVolumesResponse) { n.lie(fixed{list: list}) }

// lie replaces the node's Controller service, and links the node anew.
func (n *testNode) lie(service csi.ControllerServer) {
	server := rpc.NewServer([]grpc.ServerOption{untilHandlersEnd})
	csi.RegisterControllerServer(server, service)
	linkpb.RegisterNodeServer(server, n)
	n.conn = serve(n.c.t, server)
	n.connect()
}

var errOfTest = errors.New("says the test")

// metric is a metric as Prometheus would have it; of a histogram the number of values.
func (c *cluster) metric(want string) float64 {
	c.t.Helper()
	families, err := c.registry.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if family.GetName()+"{"+strings.Join(labels, ",")+"}" == want {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue() +
					float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	c.t.Fatalf("there is no metric %s", want)
	return 0
}

// connect links the node, without its state.
func (n *testNode) connect() {
	n.link = &link.Link{Node: n.name, Since: time.Now(), Conn: n.conn}
	n.c.Linked(n.link)
}

func (n *testNode) disconnect(why string) { n.c.Unlinked(n.link, errors.New(why)) }

// Watch implements linkpb.NodeServer.
func (n *testNode) Watch(
	_ *linkpb.WatchRequest, stream grpc.ServerStreamingServer[linkpb.State],
) error {
	for {
		n.mu.Lock()
		state, pushed := n.state, n.pushed
		n.mu.Unlock()
		if state == nil {
			state = n.realState()
		}
		if err := stream.Send(state); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-pushed:
		}
	}
}

// realState is the state of the node's pools.
func (n *testNode) realState() *linkpb.State {
	state := &linkpb.State{}
	for i, p := range n.pools {
		now, err := p.Status()
		if err != nil {
			n.c.t.Error(err)
		}
		state.Pools = append(state.Pools, &linkpb.Pool{
			Name: p.Name(), IsDefault: i == 0, Uuid: uuidOf(p), SizeBytes: now.SizeBytes,
			AvailableBytes: now.AvailableBytes, Volumes: int64(now.Volumes),
			Snapshots: int64(now.Snapshots), EnforcesSizes: p.Filesystem().EnforcesSizes,
			UnhealthyVolumes: int64(len(p.Unhealthy("", 1000))),
		})
	}
	return state
}

// uuidOf is a whole UUID that begins with the pool's ID.
func uuidOf(p *pool.Pool) string {
	id := string(p.ID())
	return id[:8] + "-" + id[8:] + "-4000-8000-" + strings.Repeat("0", 12)
}

// push pushes a state, and waits until the router has it; nil is the real one of
// this moment.
func (n *testNode) push(state *linkpb.State) {
	n.c.t.Helper()
	if state == nil {
		state = n.realState()
	}
	n.mu.Lock()
	n.state = state
	close(n.pushed)
	n.pushed = make(chan struct{})
	n.mu.Unlock()
	n.c.wait("the state of "+n.name, func() bool {
		n.c.fleet.mu.RLock()
		defer n.c.fleet.mu.RUnlock()
		have := n.c.fleet.nodes[n.name].pools
		return slices.EqualFunc(have, state.GetPools(), func(a *poolState, b *linkpb.Pool) bool {
			return a.name == b.GetName() && a.uuid == b.GetUuid() && a.notReady == b.GetNotReady() &&
				a.available == b.GetAvailableBytes() && a.optional == b.GetOptional()
		})
	})
}

func (n *testNode) waitPushed() {
	n.c.t.Helper()
	n.c.wait("the first state of "+n.name, func() bool {
		n.c.fleet.mu.RLock()
		defer n.c.fleet.mu.RUnlock()
		known := n.c.fleet.nodes[n.name]
		return known != nil && known.pushed
	})
}

// wait polls until something is so.
func (c *cluster) wait(what string, is func() bool) {
	c.t.Helper()
	for end := time.Now().Add(deadline); !is(); {
		if time.Now().After(end) {
			c.t.Fatalf("waited %s for %s", deadline, what)
		}
		time.Sleep(time.Millisecond)
	}
}

func mounted() []*csi.VolumeCapability {
	return []*csi.VolumeCapability{{
		AccessMode: &csi.VolumeCapability_AccessMode{
			Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	}}
}

func createRequest(name string, nodes ...string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:                      name,
		VolumeCapabilities:        mounted(),
		CapacityRange:             &csi.CapacityRange{RequiredBytes: mib},
		AccessibilityRequirements: on(nodes...),
	}
}

// on is a topology of nodes, in the order of preference; nil for none.
func on(nodes ...string) *csi.TopologyRequirement {
	if len(nodes) == 0 {
		return nil
	}
	requirement := &csi.TopologyRequirement{}
	for _, n := range nodes {
		t := &csi.Topology{Segments: volume.Topology(driverName, n)}
		requirement.Requisite = append(requirement.Requisite, t)
		requirement.Preferred = append(requirement.Preferred, t)
	}
	return requirement
}

func (c *cluster) create(req *csi.CreateVolumeRequest) *csi.Volume {
	c.t.Helper()
	resp, err := c.client.CreateVolume(c.t.Context(), req)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.GetVolume()
}

func (c *cluster) deleteVolume(v *csi.Volume) error {
	_, err := c.client.DeleteVolume(c.t.Context(),
		&csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()})
	return err
}

// nodeOf is the node on which a volume has been made.
func nodeOf(v *csi.Volume) string {
	return v.GetAccessibleTopology()[0].GetSegments()[volume.TopologyKey(driverName)]
}

func wantCode(t *testing.T, err error, want codes.Code, words ...string) {
	t.Helper()
	if got := rpc.Code(err); got != want {
		t.Fatalf("%v is %s, want %s", err, got, want)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%v\ndoes not say %q", err, word)
		}
	}
}
