package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/cgroup"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/disk"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
)

// detachTimeout is how long the kernel may take to let go of a dead node's disk.
const detachTimeout = 30 * time.Second

// tearDown ends all that the state file names and removes the folder. The caller
// holds the lock. Without a state file nothing was started yet.
func (f folder) tearDown(ctx context.Context, progress func(string, ...any)) error {
	s, err := f.read()
	if errors.Is(err, fs.ErrNotExist) {
		return f.remove()
	}
	if err != nil {
		return fmt.Errorf("%w (nothing was ended: look for machineinit processes, then remove %s)", err,
			f)
	}
	c := newCluster(f, s.Options)
	progress("stopping %d nodes and the control plane", len(s.Nodes))
	var errs []error
	for i, n := range s.Nodes {
		errs = append(errs, c.node(i+1).powerOff(ctx, n.Machine))
	}
	errs = append(errs, s.ControlPlane.Kill(ctx))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.Join(cgroup.Remove(c.CGroup()), f.remove())
}

// powerOff ends a node's processes at once and waits until its disk is free. Loop
// devices that something in the node attached to files of the node, or to those
// devices, are detached: they are the host's, so they do not go with the node's
// namespaces.
func (n *Node) powerOff(ctx context.Context, m machine.Machine) error {
	image := n.spec.DiskImage()
	stray, err := n.ownLoops(m, image)
	if err != nil {
		return err
	}
	if err := m.Kill(ctx); err != nil {
		return err
	}
	for _, loop := range stray {
		if err := loop.Detach(); err != nil {
			return err
		}
	}
	if err := waitDetached(ctx, image); err != nil {
		return err
	}
	// A kubelet spends seconds on each group of a dead container that it finds.
	return cgroup.Remove(n.spec.CGroup)
}

// ownLoops returns the loop devices that are backed by files on the node's disk or
// in its private directories, and those above them, but not the disk's own. When the
// node has ended by itself, only the number of the disk's own loop device is left to
// tell them by.
func (n *Node) ownLoops(m machine.Machine, image string) ([]disk.Loop, error) {
	loops, err := disk.Loops()
	if err != nil {
		return nil, err
	}
	own, attached, err := loopOf(loops, image)
	if err != nil {
		return nil, err
	}
	found := disk.WithThoseAbove(loops, func(loop disk.Loop) bool {
		switch {
		case attached && loop == own:
			return false
		case attached && loop.BackingDevice == own.Number():
			return true
		}
		return m.Alive() &&
			(loop.BackedIn(m.Path("/"), n.spec.DiskTarget) || loop.IsBackedBy(n.spec.Layout.Host))
	})
	return found, nil
}

// loopOf returns the loop device that an image file is attached to, if it is.
func loopOf(loops []disk.Loop, image string) (found disk.Loop, attached bool, err error) {
	var st unix.Stat_t
	err = unix.Stat(image, &st)
	if errors.Is(err, unix.ENOENT) {
		return found, false, nil
	}
	if err != nil {
		return found, false, &os.PathError{Op: "stat", Path: image, Err: err}
	}
	for _, loop := range loops {
		if loop.BackingDevice == st.Dev && loop.BackingInode == st.Ino {
			return loop, true, nil
		}
	}
	return found, false, nil
}

func waitDetached(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	for {
		loops, err := disk.Loops()
		if err != nil {
			return err
		}
		own, attached, err := loopOf(loops, image)
		if !attached || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf(
				"the disk %s is still in use as %s; detach what lies on it with `losetup -d`: %s",
				image,
				own.Device,
				describe(loops),
			)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func describe(loops []disk.Loop) string {
	var lines []string
	for _, loop := range loops {
		lines = append(lines, loop.Device+" on "+loop.BackingFile)
	}
	return strings.Join(lines, ", ")
}
