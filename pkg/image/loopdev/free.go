package loopdev

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openFree opens the node of a device that has no file and whose node no mount shows.
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
		return nil, 0, fmt.Errorf("%w: %w: give the driver the node's /dev", volume.ErrNode, err)
	}
	return f, n, nil
}

// openUnexposed opens the node of a device. It is nil if a mount shows the node.
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

// openOther opens the node of another free device than the one that the kernel has offered, whose
// node a mount shows. It makes a new device if it has to. Its cost grows with the number of
// devices. It is necessary only if somebody has detached a device while a pod had it.
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
