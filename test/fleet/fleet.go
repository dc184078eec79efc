package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/apiserver"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// patience bounds every wait for something that must happen: it is for a machine that is busy.
const patience = 10 * time.Minute

// requests is how many requests of one kind the bench has under way.
const requests = 32

// controllers are those of kube-controller-manager that bind and release volumes. The others would
// find out that nothing runs on the nodes.
var controllers = []string{
	"persistentvolume-binder-controller",
	"persistentvolumeclaim-protection-controller",
	"persistentvolume-protection-controller",
}

// fleet is a cluster of simulated nodes.
type fleet struct {
	dir      string
	progress func(string, ...any)

	api     *apiserver.Server
	client  *kubernetes.Clientset // the bench's own
	audited int64                 // bytes of the audit log that have been read

	mounted  bool
	replicas []*program // of the controller
	// addresses are those of the replicas. Nodes ask for them at any time: they stay as they are when
	// nodes have started.
	addresses []netip.Addr
	sidecars  []*program
	drivers   []*process.Process // of node deployment
	nodes     []*node
	tries     *tries

	address string // of the controllers, host:port
	network *network
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// fleetOptions say what a fleet has.
type fleetOptions struct {
	nodes    int
	replicas int
	// pools is how many of the nodes have one. Default: all.
	pools int
	// cuttable is the name of the node whose network can be cut (fleet.network). Empty: none.
	cuttable string
}

// newFleet starts everything but the sidecars, and waits until all nodes are linked. The caller
// closes the fleet.
func (b *bench) newFleet(ctx context.Context, o fleetOptions) (_ *fleet, err error) {
	dir, err := os.MkdirTemp(b.parent, "")
	if err != nil {
		return nil, err
	}
	f := &fleet{dir: dir, progress: b.progress, tries: newTries()}
	ctx, f.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close(b.keep))
		}
	}()
	if err := f.prepare(); err != nil {
		return nil, err
	}
	f.api, err = apiserver.Start(ctx, apiserver.Options{
		Dir: f.path("api"), Controllers: controllers, Progress: b.progress,
	})
	if err != nil {
		return nil, err
	}
	if f.client, err = f.api.Client(benchAgent, "system:masters"); err != nil {
		return nil, err
	}
	b.progress("making the objects of %d nodes", o.nodes)
	if err := errors.Join(f.common(ctx), f.objects(ctx, o.nodes)); err != nil {
		return nil, err
	}
	if err := f.startControllers(b.controller, o); err != nil {
		return nil, err
	}
	f.wg.Go(func() { f.followCA(ctx) })
	b.progress("starting %d nodes", o.nodes)
	if err := f.startNodes(ctx, o); err != nil {
		return nil, err
	}
	return f, f.waitLinked(ctx, o.replicas)
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

// prepare makes directories, and a tmpfs for the pools: each node of a real cluster has a disk of
// its own, and here they must not share one.
func (f *fleet) prepare() error {
	for _, name := range []string{"api", "files", "pools", "logs"} {
		if err := os.Mkdir(f.path(name), 0o700); err != nil {
			return err
		}
	}
	err := unix.Mount("fleet", f.path("pools"), "tmpfs", 0, "size=64g,nr_inodes=0,mode=0700")
	if err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	f.mounted = true
	return nil
}

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

// nodeAddress is a node's own address of loopback.
func nodeAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}) //nolint:gosec // up to 65,536 nodes
}

// objects makes those of all nodes.
func (f *fleet) objects(ctx context.Context, nodes int) error {
	return inParallel(ctx, nodes, func(ctx context.Context, i int) error {
		return f.nodeObjects(ctx, nodeName(i))
	})
}

// inParallel does something count times, some at a time, until an error.
func inParallel(ctx context.Context, count int, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(requests)
	for i := range count {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// startControllers starts the replicas on addresses of loopback that have one port in common, as
// the pods of a Deployment have.
func (f *fleet) startControllers(binary string, o fleetOptions) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	f.address = net.JoinHostPort("controller", port)
	if o.cuttable != "" {
		if f.network, err = newNetwork(port, o.replicas); err != nil {
			return err
		}
	}
	for i := range o.replicas {
		kubeconfig, err := f.api.Kubeconfig("csi-hostpath-controller", serviceAccounts)
		if err != nil {
			return err
		}
		p, err := newProgram(f.path("logs"), fmt.Sprintf("controller-%d", i), binary,
			"serve",
			"--endpoint=unix://"+f.socket(i),
			"--link-address="+net.JoinHostPort(replicaAddress(i).String(), port),
			"--driver-name="+driverName,
			"--server-name="+serverName,
			"--namespace="+namespace,
			"--node-service-account="+namespace+"/"+nodeAccount,
			"--token-audience="+audience,
			"--ca-secret="+caObject,
			"--ca-configmap="+caObject,
			"--kubeconfig="+kubeconfig,
			"--kube-api-qps=200",
			"--kube-api-burst=400",
			"--v=2",
		)
		if err != nil {
			return err
		}
		p.env = []string{"POD_NAME=" + p.name, "NAMESPACE=" + namespace}
		f.replicas = append(f.replicas, p)
		f.addresses = append(f.addresses, replicaAddress(i))
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// socket is where a replica serves its sidecars.
func (f *fleet) socket(replica int) string { return f.path(fmt.Sprintf("csi-%d.sock", replica)) }

func replicaAddress(i int) netip.Addr { return loopback(0, i) }

// loopback is an address of loopback for a replica. Each subnet has as many as there are replicas.
func loopback(subnet byte, replica int) netip.Addr {
	address := netip.AddrFrom4([4]byte{127, 0, subnet, 1})
	for range replica {
		address = address.Next()
	}
	return address
}

// lookup resolves the controller's name as the DNS of a cluster does for a headless Service.
func (f *fleet) lookup(context.Context, string) ([]netip.Addr, error) {
	return f.addresses, nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	address, err := netip.ParseAddrPort(l.Addr().String())
	return strconv.Itoa(int(address.Port())), err
}

// followCA writes the CA's certificates into the nodes' file whenever they change, as kubelet does.
func (f *fleet) followCA(ctx context.Context) {
	last := ""
	for ctx.Err() == nil {
		object, err := f.client.CoreV1().ConfigMaps(namespace).Get(ctx, caObject, metav1.GetOptions{})
		if err == nil && object.Data[caFile] != last {
			if err := writeFile(filepath.Join(f.path("files"), caFile), object.Data[caFile]); err == nil {
				last = object.Data[caFile]
			}
		}
		sleep(ctx, 200*time.Millisecond)
	}
}

// writeFile exchanges a file at once.
func writeFile(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (f *fleet) startNodes(ctx context.Context, o fleetOptions) error {
	// One set of interceptors for all: metrics of thousands of nodes would cost more than the nodes.
	calls := rpc.ServerOptions(rpc.Options{})
	f.nodes = make([]*node, o.nodes)
	return inParallel(ctx, o.nodes, func(_ context.Context, i int) (err error) {
		lookup := f.lookup
		if nodeName(i) == o.cuttable {
			lookup = f.network.lookup
		}
		at := filepath.Join(f.path("pools"), nodeName(i))
		if o.pools > 0 && i >= o.pools {
			at = ""
		}
		f.nodes[i], err = newNode(ctx, nodeOptions{
			name:       nodeName(i),
			pool:       at,
			files:      f.path("files"),
			controller: f.address,
			lookup:     lookup,
			address:    nodeAddress(i),
			calls:      calls,
			tries:      f.tries,
		})
		return err
	})
}

// waitLinked returns when that many replicas watch each node.
func (f *fleet) waitLinked(ctx context.Context, replicas int) error {
	return f.wait(ctx, "links of all nodes", func(context.Context) (string, error) {
		linked := 0
		for _, n := range f.nodes {
			if n.state.watching.Load() >= int64(replicas) {
				linked++
			}
		}
		if linked == len(f.nodes) {
			return "", nil
		}
		return fmt.Sprintf("%d of %d nodes are linked", linked, len(f.nodes)), nil
	})
}

// wait asks until nothing is missing. It gives up when a program has ended, or after patience.
func (f *fleet) wait(
	ctx context.Context, what string, missing func(context.Context) (string, error),
) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("it takes too long"))
	defer cancel()
	for {
		lacks, err := missing(ctx)
		if err == nil && lacks == "" {
			return nil
		}
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
			return fmt.Errorf("wait for %s: %s: %w%s", what, lacks, err, f.lastWords())
		}
		sleep(ctx, 20*time.Millisecond)
	}
}

// lastWords are those of all programs.
func (f *fleet) lastWords() string {
	var all strings.Builder
	for _, p := range append(f.replicas, f.sidecars...) {
		fmt.Fprintf(&all, "\n-- the end of the log of %s:\n%s", p.name, p.lastWords())
	}
	return all.String()
}

// close ends and removes everything, but copies the logs to keep, if that is not empty.
func (f *fleet) close(keep string) error {
	var errs []error
	for _, p := range append(f.sidecars, f.replicas...) {
		errs = append(errs, p.stop())
	}
	for _, driver := range f.drivers {
		errs = append(errs, driver.Stop())
	}
	f.stop()
	f.wg.Wait()
	var closing errgroup.Group
	closing.SetLimit(requests)
	for _, n := range f.nodes {
		if n != nil {
			closing.Go(n.close)
		}
	}
	errs = append(errs, closing.Wait())
	if f.network != nil {
		errs = append(errs, f.network.close())
	}
	if f.api != nil {
		errs = append(errs, f.api.Close())
	}
	if keep != "" {
		errs = append(errs, f.keepLogs(keep))
	}
	if f.mounted {
		err := unix.Unmount(f.path("pools"), unix.MNT_DETACH)
		errs = append(errs, os.NewSyscallError("umount", err))
	}
	return errors.Join(append(errs, os.RemoveAll(f.dir))...)
}

// keepLogs copies them into a directory of its own.
func (f *fleet) keepLogs(keep string) error {
	for _, name := range []string{"logs", "api"} {
		logs, err := filepath.Glob(filepath.Join(f.path(name), "*.log"))
		if err != nil {
			return err
		}
		for _, log := range logs {
			content, err := os.ReadFile(log)
			if err != nil {
				return err
			}
			to := filepath.Join(keep, filepath.Base(f.dir)+"-"+filepath.Base(log))
			if err := os.WriteFile(to, content, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}
