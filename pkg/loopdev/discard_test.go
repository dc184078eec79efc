package loopdev_test

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// discard is BLKDISCARD of the first bytes of a device.
func discard(f *os.File, bytes uint64) error {
	span := [2]uint64{0, bytes}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span))) //nolint:gosec // the argument
	if errno != 0 {
		return errno
	}
	return nil
}
