package image

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// NumberOf is the number of the loop device that DeviceOf opens, if the mount shows one. It asks
// nobody.
func NumberOf(m mount.Mount) (int, bool) {
	if n, ok := loopdev.NumberAt(m.Source); ok && m.Root == "/"+dataName {
		return n, true
	}
	return loopdev.NumberAt(m.Root)
}

// DeviceOf opens the loop device that a mount shows, either by data in the device's filesystem, or
// by the device's node. The caller closes it. Errors: os.ErrNotExist when the mount shows none.
func DeviceOf(m mount.Mount) (*loopdev.Device, error) {
	if n, ok := loopdev.NumberAt(m.Source); ok && m.Root == "/"+dataName {
		return loopdev.Open(n)
	}
	if _, ok := loopdev.NumberAt(m.Root); !ok {
		return nil, os.ErrNotExist
	}
	node, err := os.OpenFile(m.Point, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer node.Close()
	d, err := loopdev.NodeOf(node)
	if err != nil {
		return nil, err
	}
	if err := checkOwnNode(node, d); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// checkOwnNode makes sure that a node is the one in /dev: a pod may have made another node of the
// same number. Errors: os.ErrNotExist.
func checkOwnNode(node *os.File, d *loopdev.Device) error {
	own, err := d.Node()
	if err != nil {
		return err
	}
	defer own.Close()
	exposed, err := openat.IdentityOf(node)
	if err != nil {
		return err
	}
	if ours, err := openat.IdentityOf(own); err != nil || ours != exposed {
		return errors.Join(err, fmt.Errorf("%s is another node: %w", node.Name(), os.ErrNotExist))
	}
	return nil
}

// NodesAt returns the numbers of the devices whose nodes targets show. It does not access the
// devices.
func NodesAt(targets ...mount.Target) (numbers []int) {
	for _, at := range targets {
		if n, err := nodeAt(at); err == nil && !slices.Contains(numbers, n) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// nodeAt is the number of the device whose node a target shows. Errors: os.ErrNotExist.
func nodeAt(at mount.Target) (int, error) {
	f, mounted, err := mount.Open(at)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if !mounted {
		return 0, fmt.Errorf("%s is no mount: %w", at, os.ErrNotExist)
	}
	return loopdev.NumberOfNode(f)
}

// ExposedAt opens the device whose node a target shows. The caller closes it. Errors:
// os.ErrNotExist when the target shows none.
func ExposedAt(at mount.Target) (*loopdev.Device, error) {
	number, err := nodeAt(at)
	if err != nil {
		return nil, err
	}
	return loopdev.Open(number)
}

// Release detaches the devices of a raw block volume, but for those whose nodes targets still show.
// The devices are those of its image and those that targets have shown until now: a pod may have
// exchanged the file of one of these. The image is opened by open. It may be on a dead disk, which
// is no error: then the devices are found by the kernel's path and their guards.
func Release(
	id volume.ID, open func() (*os.File, error), targets []mount.Target, were ...int,
) error {
	exposed := NodesAt(targets...)
	err := releaseOwn(open, exposed, were)
	guarded := were
	if loopdev.IsOfDeadDisk(err) {
		guarded, err = append(slices.Clone(were), devicesOfDeadDisk(id)...), nil
	}
	for _, number := range guarded {
		if !slices.Contains(exposed, number) {
			err = errors.Join(err, detachGuarded(number))
		}
	}
	return err
}

// releaseOwn detaches the devices that have the image.
func releaseOwn(open func() (*os.File, error), exposed, were []int) error {
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close()
	return EachDevice(f, func(d *loopdev.Device) error {
		if slices.Contains(exposed, d.Number()) {
			return nil
		}
		return detach(d, were)
	})
}

// detach detaches the device. It clears the exposed mark only if every target that may show the
// device is known. The target of a read-only device is unknown if its pod had exchanged the file
// before the driver started. The mark makes the next user of the device number look for targets.
func detach(d *loopdev.Device, were []int) error {
	err := d.Detach()
	if err == nil && d.Access() == loopdev.ReadWrite && slices.Contains(were, d.Number()) {
		err = d.ClearExposed()
	}
	return err
}

// detachGuarded detaches a device that was a raw block volume's; its file is not looked at.
func detachGuarded(number int) error {
	device, err := loopdev.Guarded(number)
	if errors.Is(err, os.ErrNotExist) { // detached already, or somebody else's
		return nil
	}
	if err != nil {
		return err
	}
	defer device.Close()
	return device.Detach()
}

// devicesOfDeadDisk returns the devices whose file cannot be asked for its identity, and whose file
// is the volume's according to the kernel's path.
func devicesOfDeadDisk(id volume.ID) (dead []int) {
	numbers, err := loopdev.Attached()
	if err != nil {
		return nil
	}
	for _, n := range numbers {
		if !mayBeOf(id, n) {
			continue
		}
		device, err := loopdev.Open(n)
		if err == nil {
			device.Close()
		}
		if loopdev.IsOfDeadDisk(err) {
			dead = append(dead, n)
		}
	}
	return dead
}

// hidesFile says whether the file of a device does not identify the volume: the device has no file,
// or a pod may have exchanged it.
func hidesFile(number int) bool {
	device, err := loopdev.Open(number)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer device.Close()
	return IsExchangeable(device)
}

// IsExchangeable says whether pods may have exchanged the file of a device: it is the read-only
// device of a raw block volume.
func IsExchangeable(device *loopdev.Device) bool {
	if device.Access() != loopdev.ReadOnly {
		return false
	}
	guarded, err := loopdev.Guarded(device.Number())
	if err == nil {
		guarded.Close()
	}
	return err == nil
}
