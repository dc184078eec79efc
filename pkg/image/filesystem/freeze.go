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

// Freeze writes all of a filesystem to its device and holds every writer until Thaw. root is an
// open file of the filesystem. The filesystem stays frozen when the process dies, so the next start
// has to thaw it. Errors: EBUSY when it is frozen already.
func Freeze(root *os.File) error {
	if err := unix.IoctlSetInt(int(root.Fd()), fiFreeze, 0); err != nil {
		return fmt.Errorf("freeze %s: %w", root.Name(), err)
	}
	return nil
}

// Thaw lets the writers go on. It returns whether they were held.
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
