package filesystem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The requests of linux/fs.h, which x/sys does not have: _IOWR('X', 119, int) and _IOWR('X', 120,
// int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// Freeze makes a filesystem, by its open root, whole on its device and holds every writer until
// Thaw. A filesystem that is frozen stays so when the process dies: whoever freezes thaws at its
// next start. Errors: EBUSY when it is frozen.
func Freeze(root *os.File) error {
	if err := unix.IoctlSetInt(int(root.Fd()), fiFreeze, 0); err != nil {
		return fmt.Errorf("freeze %s: %w", root.Name(), err)
	}
	return nil
}

// Thaw lets the writers go on; it says whether they were held.
func Thaw(root *os.File) (wasFrozen bool, err error) {
	err = unix.IoctlSetInt(int(root.Fd()), fiThaw, 0)
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("thaw %s: %w", root.Name(), err)
	}
	return true, nil
}
