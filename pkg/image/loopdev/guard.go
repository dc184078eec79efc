package loopdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// guardOffset is the offset of a guard in its file. It is beyond the end of the file, so the guard
// has no size, and a program that looks at the node's devices does not find the guarded device's
// filesystem a second time. The kernel takes offsets up to LLONG_MAX.
const guardOffset = 1 << 62

// Guard keeps the device attached until Detach, also if a pod asks to detach it. Any process that
// can open a device may detach the device: LOOP_CLR_FD needs no capability, and takes effect when
// the device is no longer open anywhere (loop_clr_fd in drivers/block/loop.c). A bind mount of the
// node does not open the device. A guard is a second loop device, of size 0, whose file is this
// device's node: so the kernel has the device open, also while no driver runs. No pod sees the
// guard. If the guard exists already, Guard changes nothing.
func (d *Device) Guard() error {
	guard, err := d.guard()
	if errors.Is(err, os.ErrNotExist) {
		guard, err = Attach(d.file, Options{Access: ReadOnly, Lifetime: UntilDetached, guards: true})
	}
	if err != nil {
		return fmt.Errorf("guard %s: %w", d.Path(), err)
	}
	guard.Close()
	return nil
}

// guard is the device whose file is this one's node. Errors: os.ErrNotExist.
func (d *Device) guard() (*Device, error) {
	numbers, err := Attached()
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		// The container whose driver made the guard may be gone, and its /dev with it: only the last
		// part of the path is still right.
		if path, err := BackingPath(n); err != nil || filepath.Base(path) != filepath.Base(d.Path()) {
			continue
		}
		guard, err := Open(n)
		if errors.Is(err, os.ErrNotExist) { // detached meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		if guard.guards(d) {
			return guard, nil
		}
		guard.Close()
	}
	return nil, fmt.Errorf("%s has no guard: %w", d.Path(), os.ErrNotExist)
}

// Guarded opens a device that has a guard. The file is not looked at: it may be on a dead disk, or
// be the pod's own (LOOP_CHANGE_FD). Errors: os.ErrNotExist.
func Guarded(number int) (*Device, error) {
	f, err := openNode(number, ReadOnly)
	if err != nil {
		return nil, err
	}
	d := &Device{file: f, number: number}
	guard, err := d.guard()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	guard.Close()
	return d, nil
}

// guards says whether a device is the guard of another one. A pod could make its read-only device
// look like a guard, but a guard never has the mark of exposed nodes.
func (d *Device) guards(other *Device) bool {
	number, ok := numberOf(d.status.node)
	return ok && number == other.number && d.status.offset == guardOffset && checkMarked(d.file) != nil
}

// detachGuard detaches the guard, if there is one.
func (d *Device) detachGuard() error {
	guard, err := d.guard()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer guard.Close()
	return guard.clear()
}

// Detach takes the guard off the device, and lets the file be taken off when the last one who has
// the device open closes it, so not before Close.
//
// What was written and not synced is written then. Therefore the device is open a second time while
// LOOP_CLR_FD is called: where that finds one opener only, the kernel fails all further requests
// (Lo_rundown in drivers/block/loop.c), and the last close loses the device's page cache.
func (d *Device) Detach() error {
	if err := d.detachGuard(); err != nil {
		return err
	}
	second, err := openNode(d.number, ReadOnly)
	if errors.Is(err, os.ErrNotExist) { // it is detached, and the kernel has removed it
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.clear(), second.Close())
}

func (d *Device) clear() error {
	if err := unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_CLR_FD, 0); err != nil &&
		!errors.Is(err, unix.ENXIO) {
		return &os.PathError{Op: "LOOP_CLR_FD", Path: d.file.Name(), Err: err}
	}
	return nil
}
