// Package driver puts the parts together: from a configuration to pools, services and a gRPC
// server, and back down again.
package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/controllerserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/nodeserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
)

// Run serves until the context ends, then takes no more calls, lets those under way finish within
// cfg.ShutdownGrace, and returns. The configuration has been validated. An error means that the
// driver could not serve; a pool that cannot be opened is none.
func Run(ctx context.Context, cfg Config) error {
	if err := mount.CheckKernel(); err != nil {
		return err
	}
	listener, err := listenForKubelet(ctx, cfg)
	if err != nil {
		return err
	}
	defer listener.Close()
	sidecarListener, err := listenForSidecars(ctx, cfg)
	if err != nil {
		return err
	}
	warnOfSurroundings(ctx, cfg)
	publications := nodeserver.NewPublications()
	if err := publications.RebuildReferences(ctx, cfg.KubeletDir, cfg.DriverName); err != nil {
		return err
	}
	pools := newPoolSet(cfg, publications)
	registry := newRegistry(pools)
	host := hostpath.NewHost(cfg.HostRoot, cfg.rules())
	node := nodeserver.New(nodeserver.Options{
		NodeName:     cfg.NodeName,
		KubeletDir:   cfg.KubeletDir,
		MaxVolumes:   cfg.MaxVolumesPerNode,
		Topology:     topologyOf(cfg.DriverName, cfg.NodeName),
		Pools:        pools,
		Publications: publications,
		Host:         host,
	})
	controller := controllerserver.New(controllerserver.Options{
		Topology:     node.Topology,
		Pools:        pools,
		Publications: publications,
		Host:         host,
	})
	servers := newServers(ctx,
		services{name: cfg.DriverName, pools: pools, controller: controller, node: node}, registry)

	klog.FromContext(
		ctx,
	).Info("Serving", "driver", cfg.DriverName, "version", Version, "node", cfg.NodeName, "endpoint",
		cfg.Endpoint)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { pools.run(ctx); return nil })
	group.Go(func() error { sweep(ctx, node); return nil })
	group.Go(func() error { return serveGRPC(ctx, servers.full, listener, cfg.ShutdownGrace) })
	if sidecarListener != nil {
		group.Go(
			func() error { return serveGRPC(ctx, servers.sidecars, sidecarListener, cfg.ShutdownGrace) },
		)
	}
	group.Go(
		func() error { return serveHTTP(ctx, cfg.MetricsAddress, newHTTPServer(ctx, registry, pools)) },
	)
	group.Go(func() error { return serveRegistration(ctx, cfg) })
	return closeWithin(ctx, pools, cfg.ShutdownGrace, group.Wait())
}

// servers are the same services for two kinds of callers.
type servers struct {
	full     *grpc.Server // for kubelet, which is root
	sidecars *grpc.Server // without the calls that mount
}

// services are what both kinds of callers get, or a part of it.
type services struct {
	name       string // the driver's
	pools      *poolSet
	controller *controllerserver.Server
	node       *nodeserver.Server
}

func newServers(ctx context.Context, what services, registry prometheus.Registerer) servers {
	// One set of interceptors: a volume's lock holds whichever socket a call comes by.
	options := rpc.ServerOptions(rpc.Options{Logger: klog.FromContext(ctx), Registerer: registry})
	s := servers{full: rpc.NewServer(options), sidecars: rpc.NewServer(options)}
	for _, server := range []*grpc.Server{s.full, s.sidecars} {
		csi.RegisterControllerServer(server, what.controller)
	}
	// Sidecars wait for Probe before they do anything, and one of the things they do is to tell the
	// scheduler that a pool has no room (external-provisioner, CSIStorageCapacity): to them a
	// missing disk must not look like a driver that is still starting.
	csi.RegisterIdentityServer(s.full, &identity{name: what.name, notReady: what.pools.notReady})
	csi.RegisterIdentityServer(s.sidecars,
		&identity{name: what.name, notReady: what.pools.stillOpening})
	csi.RegisterNodeServer(s.full, what.node)
	csi.RegisterNodeServer(s.sidecars, nodeFacts{node: what.node})
	return s
}

// sweepInterval is how often inline volumes of pods that are gone are looked for: a system call for
// each inline volume.
const sweepInterval = 10 * time.Second

// sweep deletes the inline volumes that a crash has left, until the context ends.
func sweep(ctx context.Context, node *nodeserver.Server) {
	for ctx.Err() == nil {
		node.SweepInline(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(sweepInterval):
		}
	}
}

// errCutOff: calls were still under way when the grace period ended.
var errCutOff = errors.New("calls under way were cut off")

// serveGRPC serves until the context ends; after the grace period it cuts the calls that are still
// under way, and does not wait for them: on a dead disk they would take for ever. That is safe for
// data at any moment, as a crash is, but the callers have to ask again.
func serveGRPC(
	ctx context.Context, server *grpc.Server, listener net.Listener, grace time.Duration,
) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the CSI socket: %w", err)
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
		return <-served
	case <-time.After(grace):
		go server.Stop() // closes the connections, and then waits for the handlers as well
		return fmt.Errorf("%w after %s", errCutOff, grace)
	}
}

// closeWithin closes the pools, unless a call still uses one: then the end of the process does, as
// it does in a crash. So it does when a purge hangs on a dead disk.
func closeWithin(ctx context.Context, pools *poolSet, grace time.Duration, served error) error {
	if errors.Is(served, errCutOff) {
		klog.FromContext(ctx).Error(served, "Stopping all the same")
		return nil
	}
	closed := make(chan error, 1)
	go func() { closed <- pools.close() }()
	select {
	case err := <-closed:
		return errors.Join(served, err)
	case <-time.After(grace):
		klog.FromContext(ctx).Info("A purge does not end; stopping all the same", "after", grace)
		return served
	}
}
