package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/node"
)

// Cluster is a cluster that was started by this or by another process. Its
// methods can be called concurrently, and by several processes.
type Cluster struct {
	folder   folder
	options  Options
	progress func(format string, args ...any)
}

// Attach returns the cluster with a name (empty: the default) that is up. The error wraps
// fs.ErrNotExist if there is none.
func Attach(name string) (*Cluster, error) {
	name = DefaultedName(name)
	if err := checkName(name); err != nil {
		return nil, err
	}
	f := folderOf(name)
	s, err := f.read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster %q is up: start it with `go run ./test/cluster up`: %w", name,
			err)
	}
	if err != nil {
		return nil, err
	}
	if !s.Ready || !s.ControlPlane.Alive() {
		return nil, fmt.Errorf(
			"cluster %q is not whole (its start was interrupted, or its control plane ended): "+
				"run `go run ./test/cluster up` again",
			name,
		)
	}
	return newCluster(f, s.Options), nil
}

func newCluster(f folder, options Options) *Cluster {
	progress := options.Progress
	if progress == nil {
		progress = func(string, ...any) {}
	}
	return &Cluster{folder: f, options: options, progress: progress}
}

// Name returns the cluster's name.
func (c *Cluster) Name() string { return c.options.Name }

// Kubeconfig returns the path of a kubeconfig that works from the host, with
// all rights.
func (c *Cluster) Kubeconfig() string { return c.folder.kubeconfig() }

// Programs returns the folder that holds kubectl and the other programs.
func (c *Cluster) Programs() string { return c.folder.programs() }

// DiskPath returns where the nodes mount their disks.
func (c *Cluster) DiskPath() string { return c.options.DiskPath }

// Nodes returns all nodes, running or not.
func (c *Cluster) Nodes() []*Node {
	nodes := make([]*Node, c.options.Nodes)
	for i := range nodes {
		nodes[i] = c.node(i + 1)
	}
	return nodes
}

// Node returns the node with an index, starting at 1, or an error that names
// those there are.
func (c *Cluster) Node(index int) (*Node, error) {
	if index < 1 || index > c.options.Nodes {
		return nil, fmt.Errorf("no node %d: the cluster has nodes 1 to %d", index, c.options.Nodes)
	}
	return c.node(index), nil
}

// NodeNamed returns the node that Kubernetes knows by name.
func (c *Cluster) NodeNamed(name string) (*Node, error) {
	for _, n := range c.Nodes() {
		if n.Name() == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %q: the cluster has node-1 to node-%d", name, c.options.Nodes)
}

func (c *Cluster) node(index int) *Node {
	name := node.Name(index)
	spec := node.Node{
		Index:      index,
		Layout:     c.folder.layout(name),
		CGroup:     c.CGroup() + "/" + name,
		DiskTarget: c.options.DiskPath,
		KubeletDir: c.options.KubeletDir,
		Features:   c.options.features(),

		ReadOnlyRoot: c.options.ReadOnlyRoot,
	}
	return &Node{cluster: c, spec: spec}
}

// CGroup is the cluster's group, below which every process of it is.
func (c *Cluster) CGroup() string { return "csi-hostpath-cluster." + c.options.Name }

// controlPlane returns the machine as it is now.
func (c *Cluster) controlPlane() (machine.Machine, error) {
	s, err := c.folder.read()
	if err != nil {
		return machine.Machine{}, err
	}
	return s.ControlPlane, nil
}

// update changes the state file. The caller holds the lock.
func (c *Cluster) update(change func(*state)) error {
	s, err := c.folder.read()
	if err != nil {
		return err
	}
	change(s)
	return c.folder.write(s)
}

func requireRoot() error {
	if os.Geteuid() != 0 {
		return errors.New(
			"the cluster needs root, for namespaces, mounts and control groups: run this with sudo",
		)
	}
	return nil
}

// Down ends a cluster and removes all that it is made of; that there is none is
// no error. The cache stays.
func Down(ctx context.Context, name string, progress func(format string, args ...any)) error {
	if err := requireRoot(); err != nil {
		return err
	}
	name = DefaultedName(name)
	if err := checkName(name); err != nil {
		return err
	}
	f := folderOf(name)
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return f.tearDown(ctx, progress)
}
