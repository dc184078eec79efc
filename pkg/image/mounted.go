package image

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// dataName is the name, in the filesystem of an image, of what pods see. The root of ext4 has
// lost+found beside it.
const dataName = backend.Data

// ErrNotMounted says that nothing is mounted at a path.
var ErrNotMounted = errors.New("nothing is mounted there")

// DeviceAt opens the device of the filesystem that is mounted at a target. The caller closes it.
// Errors: ErrNotMounted; volume.ErrInUse when the filesystem is on no loop device.
func DeviceAt(at mount.Target) (*loopdev.Device, error) {
	number, err := numberAt(at)
	if err != nil {
		return nil, err
	}
	device, err := loopdev.Open(number)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: what is mounted at %s is no image: unmount it", volume.ErrInUse, at)
	}
	return device, err
}

// numberAt returns the number of the device that DeviceAt opens. It does not access the device,
// because the pool's disk may be dead.
func numberAt(at mount.Target) (int, error) {
	f, mounted, err := mount.Open(at)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if !mounted {
		return 0, ErrNotMounted
	}
	number, err := loopdev.NumberUnder(f)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: what is mounted at %s is no image: unmount it", volume.ErrInUse, at)
	}
	return number, err
}

// numberOfMountAt returns the number as numberAt does. If the mounted filesystem is dead, it takes
// the number from the mount table.
func numberOfMountAt(at mount.Target) (int, error) {
	number, err := numberAt(at)
	if !loopdev.IsOfDeadDisk(err) {
		return number, err
	}
	top, _, tableErr := mount.At(at)
	if n, ok := loopdev.NumberAt(top.Source); ok && tableErr == nil {
		return n, nil
	}
	return 0, err
}

// Populate makes what pods are to see in a new filesystem, which is mounted at a target. All of the
// filesystem is durable when it returns.
func Populate(at mount.Target, spec volume.Spec) error {
	f, _, err := mount.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := openat.Reopen(f, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer root.Close()
	made, err := backend.MakeEmpty(openat.Dir{File: root}, spec)
	if err != nil {
		return err
	}
	defer made.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(root.Fd())))
}

// OpenData opens with O_PATH what pods are to see, from the root of the filesystem in an image. The
// caller closes it. Errors: volume.ErrCorrupt.
func OpenData(root *os.File) (*os.File, error) {
	f, err := openat.Dir{File: root}.Resolve(dataName, unix.O_PATH, openat.OnMount)
	if err != nil {
		return nil, fmt.Errorf("%w: the image has no %s: %w", volume.ErrCorrupt, dataName, err)
	}
	return f, nil
}

// Unmount takes the filesystem of a volume's image off the staging path. The device goes with the
// last mount of it. It needs no pool: a volume whose disk is dead can be unstaged. It is no error
// when nothing is there. Errors: ErrInUse when something else is there.
func Unmount(id volume.ID, at mount.Target) error {
	// nothing is ever mounted here for a volume without an image
	if mounted, err := mount.Mounted(at); !mounted && err == nil {
		return nil
	}
	number, err := numberOfMountAt(at)
	if errors.Is(err, ErrNotMounted) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !mayBeOf(id, number) {
		return fmt.Errorf("%w: what is mounted at %s is not volume %s: it is left alone", volume.ErrInUse,
			at, id)
	}
	err = mount.Unmount(at)
	failpoint.Here("unstage.unmounted")
	return err
}

// MayShow says, without the volume's pool, whether a target may show the volume's image: the kernel
// says that the device's file is below the volume's directory. A pod that has a raw block device
// can detach its file or exchange it, so such a device may be the one of any volume.
func MayShow(id volume.ID, at mount.Target) bool {
	number, err := nodeAt(at)
	if err == nil {
		return mayBeOf(id, number) || hidesFile(number)
	}
	number, err = numberOfMountAt(at)
	return err == nil && mayBeOf(id, number)
}

// mayBeOf says whether the kernel's path of a device's file has the volume's directory in it.
func mayBeOf(id volume.ID, device int) bool {
	path, err := loopdev.BackingPath(device)
	return err == nil && slices.ContainsFunc(strings.Split(path, "/"), func(part string) bool {
		// in the trash it has a suffix
		return part == id.Dir() || strings.HasPrefix(part, id.Dir()+".")
	})
}
