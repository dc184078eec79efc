package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/cgroup"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/component"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/controlplane"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/debian"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/disk"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/network"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/pki"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/sysctl"
)

// readyTimeout is how long the control plane or a node may take to be ready.
const readyTimeout = 3 * time.Minute

// Start brings a cluster up and returns when its nodes are ready. One that is up
// already with the same options is returned as it is; what an interrupted start
// left is removed first. After an error, everything is kept for a look at the
// logs: another Start or Down removes it.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	if err := options.complete(ctx); err != nil {
		return nil, err
	}
	if err := debian.Ensure(ctx, debian.Cluster, options.Progress); err != nil {
		return nil, err
	}
	f := folderOf(options.Name)
	unlock, err := f.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c := newCluster(f, options)
	up, err := c.alreadyUp(ctx)
	if err != nil {
		return nil, err
	}
	if up {
		return c, nil
	}
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf(
			"start cluster %q: %w (logs: `go run ./test/cluster logs DIR`; then: `down`)",
			options.Name,
			err,
		)
	}
	return c, nil
}

// alreadyUp reports whether the cluster is up, and removes what is there when it
// is only part of one.
func (c *Cluster) alreadyUp(ctx context.Context) (bool, error) {
	s, err := c.folder.read()
	if errors.Is(err, fs.ErrNotExist) {
		// The folder may hold files of a start that got no further.
		return false, c.folder.empty()
	}
	if err != nil {
		return false, err
	}
	if !s.Ready || !s.ControlPlane.Alive() {
		c.progress("removing what an interrupted run left")
		return false, errors.Join(c.folder.tearDown(ctx, c.progress),
			os.MkdirAll(string(c.folder), 0o711))
	}
	if !s.Options.same(&c.options) {
		return false, fmt.Errorf("cluster %q is up with other options (%d nodes, disks %s): "+
			"run `go run ./test/cluster down` first, or give another name",
			c.options.Name, s.Options.Nodes, s.Options.Disks)
	}
	c.progress("cluster %q is up already", c.options.Name)
	return true, nil
}

func (f folder) empty() error {
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(f.path(entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) start(ctx context.Context) error {
	builder := component.Builder{
		Source:   filepath.Join(c.options.moduleRoot, "test", "cluster", "components"),
		Cache:    c.options.Cache,
		Progress: c.progress,
	}
	all, err := buildAll(ctx, builder, c.options.Kubernetes)
	if err != nil {
		return err
	}
	archives, err := c.prepareFiles(ctx, builder, all)
	if err != nil {
		return err
	}
	authority, err := c.begin()
	if err != nil {
		return err
	}
	c.progress("starting the control plane")
	if err := c.startControlPlane(ctx, authority); err != nil {
		return err
	}
	c.progress("starting %d nodes", c.options.Nodes)
	if err := c.createNodes(ctx, authority, archives); err != nil {
		return err
	}
	snapshotter := all["csi-snapshotter"].Component
	err = errors.Join(c.applyDNS(ctx), c.applySnapshotCRDs(ctx, builder, snapshotter))
	if err != nil {
		return err
	}
	for _, n := range c.Nodes() {
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	return c.update(func(s *state) { s.Ready = true })
}

// prepareFiles puts the programs into the cluster's folder and makes the images.
func (c *Cluster) prepareFiles(
	ctx context.Context, builder component.Builder, all builds,
) ([]archive, error) {
	if err := all.link(c.folder.programs()); err != nil {
		return nil, err
	}
	pause, books := c.folder.path("pause"), c.folder.path("books")
	own := map[string]string{
		"./test/cluster/machineinit": c.folder.initProgram(),
		"./test/cluster/pause":       pause,
		"./examples/books":           books,
	}
	for pkg, output := range own {
		if err := component.BuildOwn(ctx, c.options.moduleRoot, pkg, output); err != nil {
			return nil, err
		}
	}
	agnhost, err := agnhostName(ctx, builder, all["agnhost"])
	if err != nil {
		return nil, err
	}
	return all.images(c.options.Cache, pause, books, agnhost)
}

// begin writes the state file, before the first thing that outlives this process.
func (c *Cluster) begin() (*pki.Authority, error) {
	if err := c.folder.saveSettings(); err != nil {
		return nil, err
	}
	if err := sysctl.Raise(c.progress); err != nil {
		return nil, err
	}
	filesystems, err := disk.ParseFilesystems(c.options.disks(), c.options.Nodes)
	if err != nil {
		return nil, err
	}
	s := &state{Options: c.options}
	for _, filesystem := range filesystems {
		s.Nodes = append(s.Nodes, nodeState{Filesystem: filesystem})
	}
	if err := c.folder.write(s); err != nil {
		return nil, err
	}
	layout := c.folder.layout(controlplane.Name)
	if err := layout.Create(); err != nil {
		return nil, err
	}
	authority, err := pki.NewAuthority(layout.Host(machine.PKI))
	if err != nil {
		return nil, err
	}
	if err := controlplane.Configure(layout); err != nil {
		return nil, err
	}
	return authority, controlplane.IssueCertificates(authority)
}

func (c *Cluster) startControlPlane(ctx context.Context, authority *pki.Authority) error {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	inherited, err := listener.File()
	if err != nil {
		return err
	}
	defer func() { _ = inherited.Close() }()
	server := "https://" + listener.Addr().String()
	if err := authority.Kubeconfig(c.folder.kubeconfig(), server, "admin"); err != nil {
		return err
	}
	layout := c.folder.layout(controlplane.Name)
	group := c.CGroup() + "/" + controlplane.Name
	spec := controlplane.Spec(layout, c.folder.programs(), group, c.options.features())
	record := func(s *state, m machine.Machine) { s.ControlPlane = m }
	connect := func(pid int) error { return network.ConnectControlPlane(ctx, pid) }
	if err := c.boot(ctx, layout, spec, inherited, record, connect); err != nil {
		return err
	}
	return c.waitAPIServer(ctx)
}

// boot starts a machine. Its PID is in the state file before it does anything.
func (c *Cluster) boot(
	ctx context.Context,
	layout machine.Layout,
	spec machine.Spec,
	listener *os.File,
	record func(*state, machine.Machine),
	connect func(pid int) error,
) error {
	if err := cgroup.Create(spec.CGroup); err != nil {
		return err
	}
	if err := machine.WriteSpec(layout.SpecFile(), spec); err != nil {
		return err
	}
	pending, err := machine.Prepare(spec.Hostname, machine.Files{
		InitProgram: c.folder.initProgram(),
		SpecFile:    layout.SpecFile(),
		LogFile:     layout.LogFile(),
		Listener:    listener,
	})
	if err != nil {
		return err
	}
	err = c.update(func(s *state) { record(s, pending.Machine) })
	if err == nil {
		err = connect(pending.Init.PID)
	}
	if err != nil {
		return errors.Join(err, pending.Abandon())
	}
	if err := pending.Release(); err != nil {
		return err
	}
	return pending.WaitInit(ctx)
}

// createNodes makes and boots the nodes, and gives them their images at the same
// time: loading them takes longest.
func (c *Cluster) createNodes(
	ctx context.Context, authority *pki.Authority, archives []archive,
) error {
	for _, n := range c.Nodes() {
		if err := n.create(ctx, authority); err != nil {
			return err
		}
		if err := n.boot(ctx, n.spec.Spec(c.folder.programs())); err != nil {
			return err
		}
	}
	return c.loadAll(ctx, archives)
}

func (c *Cluster) loadAll(ctx context.Context, archives []archive) error {
	for _, n := range c.Nodes() {
		if err := n.waitContainerd(ctx); err != nil {
			return err
		}
	}
	c.progress("loading %d images into each node", len(archives))
	for _, image := range archives {
		if err := c.Load(ctx, image.path); err != nil {
			return err
		}
	}
	return nil
}

// applySnapshotCRDs installs the snapshot API, which belongs to a cluster.
func (c *Cluster) applySnapshotCRDs(
	ctx context.Context, builder component.Builder, snapshotter component.Component,
) error {
	folder, err := builder.ModuleFolder(ctx, snapshotter,
		"github.com/kubernetes-csi/external-snapshotter/client/v8")
	if err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "apply", "--kustomize", filepath.Join(folder, "config", "crd"))
	return err
}

func (c *Cluster) waitAPIServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return poll(ctx, "the API server is not ready", func() error {
		_, err := c.Kubectl(ctx, "get", "--raw=/readyz")
		return err
	})
}

// poll tries until it gets no error, or the context ends; the error says what and
// why.
func poll(ctx context.Context, what string, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
