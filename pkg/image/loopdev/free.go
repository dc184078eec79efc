package loopdev

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openFree opens the node of a device that has no file, and that no mount shows.
func openFree(ctl *os.File, access Access) (*os.File, int, error) {
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, 0, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
	}
	f, err := openUnexposed(n, access)
	if f == nil && err == nil {
		f, n, err = openOther(ctl, access)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w: give the driver the node's /dev", volume.ErrUnavailable, err)
	}
	return f, n, nil
}

// openUnexposed opens the node of a device; nil if a mount shows it.
func openUnexposed(number int, access Access) (*os.File, error) {
	f, err := openNode(number, access)
	if err != nil {
		return nil, err
	}
	if shown, err := isExposed(f, number); shown || err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openOther opens the node of another device than the one that the kernel would give, because a
// mount shows that: one of those that are there, or a new one. Its cost grows with the number of
// devices: only somebody who has detached a device under its pod makes it necessary.
func openOther(ctl *os.File, access Access) (*os.File, int, error) {
	all, err := numbers()
	if err != nil {
		return nil, 0, err
	}
	for _, n := range slices.DeleteFunc(all, isAttached) {
		if f, err := openUnexposed(n, access); f != nil || err != nil {
			return f, n, err
		}
	}
	const whichever = ^uintptr(0)
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, ctl.Fd(), unix.LOOP_CTL_ADD, whichever)
	if errno != 0 {
		return nil, 0, os.NewSyscallError("LOOP_CTL_ADD", errno)
	}
	f, err := openNode(int(n), access)
	return f, int(n), err
}
