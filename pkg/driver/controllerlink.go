package driver

import (
	"context"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/statuslink"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
)

// controllerLink serves the controller, on links that the driver dials: the calls of the Controller
// service, and the state of the pools. The controller cannot mount. It is nil without a controller.
type controllerLink struct {
	cfg    config.Config
	states *poolStates
	server *grpc.Server
}

// newControllerLink makes a server with the options of those of the sockets, so that a volume's
// lock holds for the calls of all.
func newControllerLink(
	ctx context.Context, cfg config.Config, what services, options []grpc.ServerOption,
) *controllerLink {
	if cfg.ControllerAddress == "" {
		return nil
	}
	states := newPoolStates(what.pools)
	states.references = what.describeStale
	all := slices.Concat(
		[]grpc.ServerOption{rpc.TakeRequestIDs()},
		options,
		[]grpc.ServerOption{grpc.ChainUnaryInterceptor(states.afterChange)},
		link.GRPCServerOptions(),
	)
	c := &controllerLink{cfg: cfg, states: states, server: rpc.NewServer(all)}
	csi.RegisterControllerServer(c.server, what.controller)
	csi.RegisterGroupControllerServer(c.server, what.controller)
	linkpb.RegisterNodeServer(c.server, &nodeState{states: states, stopping: ctx.Done()})
	linkpb.RegisterStatusServer(c.server, &statuslink.Server{Pools: what.status})
	return c
}

// run keeps links to the controller, and serves on them, until the context ends. Then calls under
// way have the grace period. Errors: those of serving.GRPC.
func (c *controllerLink) run(ctx context.Context) error {
	if c == nil {
		return nil
	}
	listener, err := link.Listen(link.NodeOptions{ //nolint:contextcheck // the server closes it
		Address:       c.cfg.ControllerAddress,
		ServerName:    c.cfg.ControllerServerName,
		CAFile:        c.cfg.ControllerCA,
		TokenFile:     c.cfg.ControllerToken,
		NodeName:      c.cfg.NodeName,
		DriverName:    c.cfg.DriverName,
		DriverVersion: version.Version,
		Logger:        klog.FromContext(ctx),
	})
	if err != nil {
		return err
	}
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		c.states.run(ctx)
	}()
	err = serving.GRPC(ctx, c.server, listener, c.cfg.ShutdownGrace)
	select {
	case <-measured:
	case <-time.After(stopSlack): // a disk hangs
	}
	return err
}

// nodeState pushes the state of the pools.
type nodeState struct {
	linkpb.UnimplementedNodeServer

	states   *poolStates
	stopping <-chan struct{}
}

var _ linkpb.NodeServer = (*nodeState)(nil)

// Watch sends the state at once, and when it has changed. It ends with the link or the driver.
func (n *nodeState) Watch(
	_ *linkpb.WatchRequest, stream grpc.ServerStreamingServer[linkpb.State],
) error {
	var last *linkpb.State
	for {
		changed := n.states.changed.next()
		if state := n.states.current.Load(); state != nil && state != last {
			if err := stream.Send(state); err != nil {
				return err
			}
			last = state
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-n.stopping:
			return errStopping
		}
	}
}
