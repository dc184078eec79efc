package loopdev

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// exposedMark is an extended attribute of the node of a device that pods may see. It is gone with
// the node, which is in memory.
const exposedMark = "trusted.csi-hostpath.shown"

// Expose opens the device's node with O_PATH, to be shown to a pod, and marks it. While a mount
// shows the node, Attach puts no other file on that device, also after somebody has detached it by
// hand. The caller closes the node.
func (d *Device) Expose() (*os.File, error) {
	node, err := d.Node()
	if err != nil {
		return nil, err
	}
	err = unix.Setxattr(openat.Path(node), exposedMark, []byte{'1'}, 0)
	if err != nil && !errors.Is(err, unix.ENOTSUP) { // without marks isExposed reads the mount table
		return nil, errors.Join(&os.PathError{Op: "setxattr", Path: d.Path(), Err: err}, node.Close())
	}
	return node, nil
}

// checkMarked: nil if a node, also one opened with O_PATH, was shown to pods. Errors: unix.ENODATA
// when not, unix.ENOTSUP when /dev keeps no marks.
func checkMarked(node *os.File) error {
	_, err := unix.Getxattr(openat.Path(node), exposedMark, nil)
	return err
}

// isExposed says whether a mount shows a device's node. It reads the mount table only if the node
// is marked.
func isExposed(node *os.File, number int) (bool, error) {
	if errors.Is(checkMarked(node), unix.ENODATA) {
		return false, nil
	}
	mounts, err := mount.Table()
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		// proc_pid_mountinfo(5) appends "//deleted" to the path of a removed node. Its device may exist
		// again.
		root := strings.TrimSuffix(m.Root, "//deleted")
		if n, ok := NumberAt(root); ok && n == number && root == fmt.Sprintf("/loop%d", n) {
			return true, nil
		}
	}
	return false, unmark(node)
}

// ClearExposed removes the mark: no mount shows the device's node any more.
func (d *Device) ClearExposed() error { return unmark(d.file) }

func unmark(node *os.File) error {
	err := unix.Removexattr(openat.Path(node), exposedMark)
	if err == nil || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return &os.PathError{Op: "removexattr", Path: node.Name(), Err: err}
}
