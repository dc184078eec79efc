package loopdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// guardOffset is where a guard's file begins to be its disk: beyond the end of it, so that the
// guard has no size, and nobody who looks at the node's devices finds the other one's filesystem a
// second time. It is less than LLONG_MAX, which is as much as the kernel takes.
const guardOffset = 1 << 62

// Guard keeps the device attached until Detach, whatever a pod asks of it. Whoever can open a
// device may detach it: LOOP_CLR_FD needs no capability, and takes effect when nobody has the
// device open any more (loop_clr_fd in drivers/block/loop.c); a bind mount of its node opens
// nothing. A guard is another loop device, of no size, whose file is this one's node, so that the
// kernel itself has it open, also while no driver runs. No pod sees the guard. Doing it again
// changes nothing.
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
		// The container whose driver made the guard may be gone, and its /dev with it: what is left
		// of the path is the node's name.
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

// Guarded opens a device that has a guard. It asks nothing of the file, which may be on a disk that
// has died, or be the pod's own (LOOP_CHANGE_FD). Errors: os.ErrNotExist.
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

// guards says whether a device is the guard of another: a pod could have its read-only device look
// like one, but for the mark.
func (d *Device) guards(other *Device) bool {
	number, ok := numberOf(d.status.node)
	return ok && number == other.number && d.status.offset == guardOffset && checkMarked(d.file) != nil
}

// dismiss detaches the guard, if there is one.
func (d *Device) dismiss() error {
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

// Detach takes the file off the device, and the guard before it, at once or, if somebody else has
// the device open, when they close it.
func (d *Device) Detach() error {
	if err := d.dismiss(); err != nil {
		return err
	}
	return d.clear()
}

func (d *Device) clear() error {
	if err := unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_CLR_FD, 0); err != nil &&
		!errors.Is(err, unix.ENXIO) {
		return &os.PathError{Op: "LOOP_CLR_FD", Path: d.file.Name(), Err: err}
	}
	return nil
}
