// Package driver puts the parts together: from a configuration to pools, services and a gRPC
// server, and back down again.
package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/adminpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/controllerserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/identity"
	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/nodeserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Run serves until the context ends. Then it takes no more calls, gives those under way
// cfg.ShutdownGrace to finish, and returns. The configuration has been validated. An error means
// that the driver could not serve; a pool that cannot be opened is not an error.
func Run(ctx context.Context, cfg config.Config) error {
	if err := mount.CheckKernel(); err != nil {
		return err
	}
	s, publications := newServices(ctx, cfg)
	registry := newRegistry(s.pools)
	if len(cfg.GitSources) > 0 {
		registry.MustRegister(gitMetrics{s.git})
	}
	asked := ctx // ends when the driver is to stop
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	// The pages say what a start waits for.
	group.Go(func() error {
		pages := newHTTPServer(ctx, registry, s.pools, s.nodeChecks)
		return serving.HTTP(ctx, cfg.MetricsAddress, pages)
	})
	group.Go(func() error {
		pages := serving.NewHTTPServer(status.NewHandler(s.status))
		return serving.Status(ctx, cfg.StatusAddress, pages)
	})
	sockets, err := prepare(ctx, cfg, s.nodeChecks, publications)
	if err != nil {
		stop()
		failed := group.Wait()
		if asked.Err() != nil || errors.Is(err, failed) {
			return failed
		}
		return errors.Join(err, failed)
	}
	defer sockets.kubelet.Close()
	servers := newServers(ctx, s, registry)
	controller := newControllerLink(ctx, cfg, s, servers.options)

	klog.FromContext(ctx).Info("Serving", "driver", cfg.DriverName, "version", version.Version,
		"node", cfg.NodeName, "endpoint", cfg.Endpoint)
	group.Go(func() error { return s.pools.run(ctx) })
	group.Go(func() error { s.nodeChecks.run(ctx, &s.pools.changes); return nil })
	group.Go(func() error { s.repeat(ctx, sweepInterval, s.node.SweepInline); return nil })
	group.Go(func() error { s.repeat(ctx, limitInterval, s.node.RefreshLimits); return nil })
	group.Go(func() error { s.repeat(ctx, growInterval, s.node.RetryGrowth); return nil })
	group.Go(func() error {
		return serving.GRPC(ctx, servers.full, sockets.kubelet, cfg.ShutdownGrace)
	})
	if sockets.sidecars != nil {
		group.Go(func() error {
			return serving.GRPC(ctx, servers.sidecars, sockets.sidecars, cfg.ShutdownGrace)
		})
	}
	if len(cfg.GitSources) > 0 { // fetches end before the pools close
		group.Go(func() error { <-ctx.Done(); s.git.Close(); return nil })
	}
	group.Go(func() error { return controller.run(ctx) })
	group.Go(func() error { return serveRegistration(ctx, cfg) })
	return closeWithin(ctx, s.pools, cfg.ShutdownGrace, waitWithin(ctx, group, cfg.ShutdownGrace))
}

// prepare makes the sockets, and finds out what a start must know of kubelet's directory. While a
// filesystem does not answer, that is a fault of the node, and prepare waits: a process that ended
// with a thread in such a filesystem could not be started again either. Errors: also the context's
// cause.
func prepare(
	ctx context.Context, cfg config.Config, around *nodeChecks,
	publications *nodeserver.Publications,
) (s sockets, err error) {
	err = around.await(ctx, "the directory of the socket "+cfg.Endpoint, func() (err error) {
		s, err = openSockets(ctx, cfg)
		return err
	})
	if err != nil {
		return sockets{}, err
	}
	err = around.await(ctx, around.where(), func() error {
		around.logOtherName(ctx)
		return publications.RebuildReferences(ctx, cfg.KubeletDir, cfg.DriverName)
	})
	if err == nil {
		err = around.check(ctx)
	}
	if err != nil {
		return sockets{}, errors.Join(err, s.kubelet.Close())
	}
	return s, nil
}

// services are the CSI services and what they share.
type services struct {
	name       string // the driver's
	pools      *poolSet
	controller *controllerserver.Server
	node       *nodeserver.Server
	git        *gitsource.Contents

	nodeChecks *nodeChecks
	status     *nodeStatus
}

func (s services) identity(notReady func() error) *identity.Server {
	return &identity.Server{Name: s.name, NotReady: notReady}
}

// notReady says why kubelet must wait; nil means ready.
func (s services) notReady() error {
	return errors.Join(s.nodeChecks.notReady(), s.pools.notReady())
}

// newServices asks no filesystem. The publications have to be read before the services are used.
func newServices(
	ctx context.Context, cfg config.Config,
) (services, *nodeserver.Publications) {
	publications := nodeserver.NewPublications()
	limiter := iolimit.New(iolimit.Options{
		Cgroups: cfg.IOLimits.Cgroups, PodsGroup: cfg.IOLimits.PodsGroup,
	})
	pools := newPoolSet(cfg, publications)
	pools.limiter = limiter
	host := hostpath.NewHost(cfg.HostRoot, cfg.HostPathRules())
	git := newGitContents(ctx, cfg, pools)
	around := newNodeChecks(cfg.KubeletDir)
	node := nodeserver.New(nodeserver.Options{
		NodeName:     cfg.NodeName,
		KubeletDir:   cfg.KubeletDir,
		MaxVolumes:   cfg.MaxVolumesPerNode,
		Topology:     volume.Topology(cfg.DriverName, cfg.NodeName),
		Pools:        pools,
		Publications: publications,
		Host:         host,
		Git:          git,
		NodeReasons:  around.reasons,
		Limiter:      limiter,
		Proc:         filepath.Join(cfg.HostRoot, "proc"),
	})
	controller := controllerserver.New(controllerserver.Options{
		Topology:     node.Topology,
		Pools:        pools,
		Publications: node, // it knows what is staged, too
		Host:         host,
		Git:          git,
		Limiter:      limiter,
	})
	told := newNodeStatus(cfg, pools, publications, git)
	return services{cfg.DriverName, pools, controller, node, git, around, told}, publications
}

// servers are the gRPC servers of the two CSI sockets.
type servers struct {
	options []grpc.ServerOption // of both

	full     *grpc.Server // for kubelet, which is root
	sidecars *grpc.Server // without the calls that mount
}

func newServers(ctx context.Context, what services, registry prometheus.Registerer) servers {
	// One set of interceptors, so that a volume's lock holds for the calls of both sockets.
	options := rpc.ServerOptions(rpc.Options{Logger: klog.FromContext(ctx), Registerer: registry})
	options = append(options,
		grpc.ChainUnaryInterceptor(what.nodeChecks.refuseMounts, what.pools.countCall))
	s := servers{
		options: options, full: rpc.NewServer(options), sidecars: rpc.NewServer(options),
	}
	for _, server := range []*grpc.Server{s.full, s.sidecars} {
		csi.RegisterControllerServer(server, what.controller)
	}
	// Sidecars wait for Probe before they do anything, also before they tell the scheduler that a
	// pool has no room (external-provisioner, CSIStorageCapacity). So on their socket a missing disk
	// must not look like a driver that is still starting.
	full := what.identity(what.notReady)
	// Not on the sidecars' socket: in node deployment external-snapshotter looks at group contents
	// only if they have the label "managed-by", and nobody sets that.
	full.More = identity.GroupSnapshots()
	csi.RegisterGroupControllerServer(s.full, what.controller)
	csi.RegisterIdentityServer(s.full, full)
	csi.RegisterIdentityServer(s.sidecars, what.identity(what.pools.stillOpening))
	csi.RegisterNodeServer(s.full, what.node)
	adminpb.RegisterAdminServer(s.full, &adminServer{
		pools: what.pools, topology: what.node.Topology,
	})
	csi.RegisterNodeServer(s.sidecars, nodeFacts{node: what.node})
	return s
}

// sweepInterval is the time between two searches for inline volumes whose pods are gone. A search
// costs a system call for each inline volume.
const sweepInterval = 10 * time.Second

// limitInterval is the time between two looks at groups that may lack the limits of volumes. A look
// costs nothing where there are no limits, reading a file on cgroup v2, and one for each container
// on v1, where a new container is not limited before.
const limitInterval = time.Second

// growInterval is the time between two tries to grow the filesystems for which that has failed. A
// try costs nothing where there are none.
const growInterval = 5 * time.Minute

// repeat does something again and again, as a call of its own, until the context ends.
func (s services) repeat(ctx context.Context, interval time.Duration, do func(context.Context)) {
	for ctx.Err() == nil {
		leave := s.pools.calls.enter()
		do(ctx)
		leave()
		select {
		case <-ctx.Done():
		case <-time.After(interval):
		}
	}
}

// stopSlack is how much longer than the grace period the driver waits for what is not a call: the
// servers themselves take as long as the grace period.
const stopSlack = time.Second

// waitWithin waits until the group has ended, but not much longer than the grace period after the
// end of the context: the opening of a pool, or a sweep, may hang. Errors: the group's;
// serving.ErrCutOff.
func waitWithin(ctx context.Context, group *errgroup.Group, grace time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(grace + stopSlack):
		return fmt.Errorf("%w: what the driver does by itself hangs", serving.ErrCutOff)
	}
}

// closeWithin closes the pools, and returns after the grace period also if a purge hangs on a dead
// disk. Pools that calls still use are not closed. The end of the process closes what is left, as
// in a crash. But a thread that hangs may keep the process from ending, so the pools that are not
// closed are unlocked for the next driver.
func closeWithin(ctx context.Context, pools *poolSet, grace time.Duration, served error) error {
	all := pools.all() // before close, which has the lock for as long as a purge hangs
	if errors.Is(served, serving.ErrCutOff) {
		klog.FromContext(ctx).Error(served, "Stopping all the same")
		unlockAll(ctx, all)
		return nil
	}
	closed := make(chan error, 1)
	go func() { closed <- pools.close() }()
	select {
	case err := <-closed:
		return errors.Join(served, err)
	case <-time.After(grace):
		klog.FromContext(ctx).Info("A purge does not end; stopping all the same", "after", grace)
		unlockAll(ctx, all)
		return served
	}
}

// unlockAll lets the next driver open the pools. The process ends right after.
func unlockAll(ctx context.Context, pools []*pool.Pool) {
	for _, p := range pools {
		if err := p.Unlock(); err != nil && !errors.Is(err, os.ErrClosed) {
			klog.FromContext(ctx).Error(err, "The next driver cannot open a pool before this process has ended",
				"pool", p.Name())
		}
	}
}
