package loopdev

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
)

// shownMark is an extended attribute of a device's node that pods may see. It goes with the node,
// at the latest with the next boot.
const shownMark = "trusted.csi-hostpath.shown"

// Show opens the device's node with O_PATH, to be shown to a pod, and marks it: as long as a mount
// shows it, no other file comes on that number, also after the device was detached by hand. The
// caller closes it.
func (d *Device) Show() (*os.File, error) {
	node, err := d.Node()
	if err != nil {
		return nil, err
	}
	err = unix.Setxattr(descriptor(node), shownMark, []byte{'1'}, 0)
	if err != nil && !errors.Is(err, unix.ENOTSUP) { // without marks isShown reads the mount table
		return nil, errors.Join(&os.PathError{Op: "setxattr", Path: d.Path(), Err: err}, node.Close())
	}
	return node, nil
}

// descriptor names an open file for the calls that take no descriptor of O_PATH.
func descriptor(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// checkMarked: nil if a node, also one opened with O_PATH, was shown to pods. Errors: unix.ENODATA
// when not, unix.ENOTSUP when /dev keeps no marks.
func checkMarked(node *os.File) error {
	_, err := unix.Getxattr(descriptor(node), shownMark, nil)
	return err
}

// isShown says whether a mount shows a device's node. It reads the mount table only if the node is
// marked.
func isShown(node *os.File, number int) (bool, error) {
	if errors.Is(checkMarked(node), unix.ENODATA) {
		return false, nil
	}
	mounts, err := mount.Table()
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		// proc_pid_mountinfo(5): a node that is gone, as its device may be again
		root := strings.TrimSuffix(m.Root, "//deleted")
		if n, ok := NumberAt(root); ok && n == number && root == fmt.Sprintf("/loop%d", n) {
			return true, nil
		}
	}
	return false, unmark(node)
}

// Hide says that nobody shows the device's node any more.
func (d *Device) Hide() error { return unmark(d.file) }

func unmark(node *os.File) error {
	err := unix.Removexattr(descriptor(node), shownMark)
	if err == nil || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return &os.PathError{Op: "removexattr", Path: node.Name(), Err: err}
}
