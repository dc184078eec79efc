package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/disk"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/network"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/node"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/pki"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/process"
)

// The programs that a node runs, for Restart, StopUnit and the like.
const (
	Kubelet    = "kubelet"
	Containerd = "containerd"
	KubeProxy  = "kube-proxy"
)

// Node is one node of a cluster.
type Node struct {
	cluster *Cluster
	spec    node.Node
}

// Name returns the name that Kubernetes knows the node by.
func (n *Node) Name() string { return n.spec.Name() }

// Index returns the node's number, from 1.
func (n *Node) Index() int { return n.spec.Index }

// IP returns the node's address; only the cluster's machines reach it.
func (n *Node) IP() string { return network.NodeIP(n.spec.Index).String() }

// Filesystem returns what the node's disk is formatted with: ext4, xfs or btrfs.
func (n *Node) Filesystem() (string, error) {
	s, err := n.state()
	return string(s.Filesystem), err
}

// Running reports whether the node's PID 1 runs.
func (n *Node) Running() bool {
	s, err := n.state()
	return err == nil && s.Machine.Alive()
}

// HostPath returns where the host sees a file of the running node, whatever is
// mounted there in the node.
func (n *Node) HostPath(inside string) (string, error) {
	s, err := n.state()
	return s.Machine.Path(inside), err
}

func (n *Node) state() (nodeState, error) {
	s, err := n.cluster.folder.read()
	if err != nil {
		return nodeState{}, err
	}
	return s.Nodes[n.spec.Index-1], nil
}

// Command returns a command that will run in all of the node's namespaces, for
// callers that want its streams.
func (n *Node) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	s, err := n.state()
	if err != nil {
		return nil, err
	}
	if !s.Machine.Alive() {
		return nil, fmt.Errorf("%s is not running: start it first", n.Name())
	}
	return s.Machine.Command(ctx, args...), nil
}

// Exec runs a command in the node and returns its standard output; the error
// holds what it wrote to standard error.
func (n *Node) Exec(ctx context.Context, args ...string) (string, error) {
	return n.ExecInput(ctx, nil, args...)
}

// ExecInput is Exec with a standard input.
func (n *Node) ExecInput(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	s, err := n.state()
	if err != nil {
		return "", err
	}
	output, err := s.Machine.Run(ctx, stdin, args...)
	return string(output), err
}

// Restart restarts programs of the node (none given: the kubelet) as their
// service manager would, and returns when they run; see WaitReady.
func (n *Node) Restart(ctx context.Context, units ...string) error {
	if len(units) == 0 {
		units = []string{Kubelet}
	}
	return n.do(ctx, machine.Restart, units)
}

// StopUnits stops programs until StartUnits, Restart or a reboot.
func (n *Node) StopUnits(ctx context.Context, units ...string) error {
	return n.do(ctx, machine.Stop, units)
}

// StartUnits starts stopped programs.
func (n *Node) StartUnits(ctx context.Context, units ...string) error {
	return n.do(ctx, machine.Start, units)
}

// KillUnits sends SIGKILL to programs; the node starts them again by itself.
func (n *Node) KillUnits(ctx context.Context, units ...string) error {
	return n.do(ctx, machine.Kill, units)
}

// KillProcesses sends SIGKILL to every process in the node, its containers' too,
// that runs a program of this file name, and returns how many there were.
func (n *Node) KillProcesses(program string) (int, error) {
	s, err := n.state()
	if err != nil {
		return 0, err
	}
	found, err := process.Descendants(s.Machine.Init, program)
	if err != nil {
		return 0, err
	}
	for _, identity := range found {
		if err := identity.Signal(unix.SIGKILL); err != nil {
			return 0, err
		}
	}
	return len(found), nil
}

func (n *Node) do(ctx context.Context, action machine.Action, units []string) error {
	s, err := n.state()
	if err != nil {
		return err
	}
	for _, unit := range units {
		if err := s.Machine.Do(ctx, action, unit); err != nil {
			return err
		}
	}
	return nil
}

// Reboot is Stop and Start: all processes, namespaces and mounts of the node go
// at once, as in a power cut, and its disks stay.
func (n *Node) Reboot(ctx context.Context) error {
	if err := n.Stop(ctx); err != nil {
		return err
	}
	return n.Start(ctx)
}

// Stop ends the node as a power cut does. One that is stopped stays so.
func (n *Node) Stop(ctx context.Context) error {
	return n.locked(ctx, func() error {
		s, err := n.state()
		if err != nil {
			return err
		}
		return n.powerOff(ctx, s.Machine)
	})
}

// Start boots a stopped node and returns when Kubernetes calls it ready.
func (n *Node) Start(ctx context.Context) error {
	return n.startWith(ctx, n.spec.Spec(n.cluster.folder.programs()))
}

// StartWithoutDisk boots a stopped node whose disk is missing: the directory it
// belongs on is an empty one of the node's root filesystem.
func (n *Node) StartWithoutDisk(ctx context.Context) error {
	spec := n.spec.Spec(n.cluster.folder.programs())
	spec.Disk = nil
	return n.startWith(ctx, spec)
}

func (n *Node) startWith(ctx context.Context, spec machine.Spec) error {
	err := n.locked(ctx, func() error {
		if n.Running() {
			return fmt.Errorf("%s is running: stop it first", n.Name())
		}
		return n.boot(ctx, spec)
	})
	if err != nil {
		return err
	}
	return n.WaitReady(ctx)
}

func (n *Node) locked(ctx context.Context, work func() error) error {
	unlock, err := n.cluster.folder.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return work()
}

// Disconnect pulls the node's network cable; Connect plugs it in again.
func (n *Node) Disconnect(ctx context.Context) error { return n.setLink(ctx, "down") }

// Connect plugs the node's network cable in.
func (n *Node) Connect(ctx context.Context) error { return n.setLink(ctx, "up") }

func (n *Node) setLink(ctx context.Context, state string) error {
	controlPlane, err := n.cluster.controlPlane()
	if err != nil {
		return err
	}
	return network.SetNodeLink(ctx, controlPlane.Init.PID, n.spec.Index, state)
}

// create makes the node's folder, disk and configuration.
func (n *Node) create(ctx context.Context, authority *pki.Authority) error {
	s, err := n.state()
	if err != nil {
		return err
	}
	if err := n.spec.Layout.Create(); err != nil {
		return err
	}
	return errors.Join(
		n.spec.Configure(authority),
		disk.Create(ctx, n.spec.DiskImage(), s.Filesystem, n.cluster.options.DiskSize),
	)
}

// boot starts the machine. The caller holds the lock.
func (n *Node) boot(ctx context.Context, spec machine.Spec) error {
	controlPlane, err := n.cluster.controlPlane()
	if err != nil {
		return err
	}
	record := func(s *state, m machine.Machine) { s.Nodes[n.spec.Index-1].Machine = m }
	connect := func(pid int) error {
		return network.ConnectNode(ctx, controlPlane.Init.PID, pid, n.spec.Index)
	}
	return n.cluster.boot(ctx, n.spec.Layout, spec, nil, record, connect)
}

func (n *Node) waitContainerd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return poll(ctx, n.Name()+": containerd is not ready", func() error {
		_, err := n.Exec(ctx, machine.Programs+"/ctr", "--address", node.ContainerdSocket, "version")
		return err
	})
}

// WaitReady returns when Kubernetes calls this boot of the node ready.
func (n *Node) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	// A node that was gone only for a moment still counts as ready, of its last boot.
	boot, err := n.Exec(ctx, "cat", "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	const status = `{.status.nodeInfo.bootID} {.status.conditions[?(@.type=="Ready")].status}`
	want := strings.TrimSpace(boot) + " True"
	return poll(ctx, n.Name()+" is not ready", func() error {
		// The node object lags behind; its kubelet answers only while it runs.
		if _, err := n.cluster.Kubectl(
			ctx,
			"get",
			"--raw=/api/v1/nodes/"+n.Name()+"/proxy/healthz",
		); err != nil {
			return err
		}
		got, err := n.cluster.Kubectl(ctx, "get", "node", n.Name(), "--output=jsonpath="+status)
		if err == nil && got != want {
			err = fmt.Errorf("boot and readiness are %q, want %q", got, want)
		}
		return err
	})
}
