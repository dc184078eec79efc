// Package staging brings the image of a volume to where it can be published: on a loop device, with
// its filesystem mounted at the staging path. What is attached and mounted is read from the kernel
// each time; nothing is remembered.
package staging

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Volume is a volume with an image, and its pool. The caller has it for itself.
type Volume struct {
	volume.Volume
	Pool *pool.Pool
}

// Mount mounts the filesystem of the volume's image at the staging path, a directory of the
// caller's. The first time it makes it; later it checks it, and grows it when the image has grown.
// The device goes with the last mount of the filesystem. Doing it again changes nothing. Errors:
// ErrInUse when something else is mounted there, ErrCorrupt when the filesystem is damaged,
// ErrUnavailable when a program is missing, ErrBusy while the image is copied.
func (v Volume) Mount(ctx context.Context, at mount.Target) error {
	done, err := v.resume(at)
	if err != nil {
		return err
	}
	if done {
		return v.grow(at)
	}
	image, err := v.Pool.OpenImage(v.ID)
	if err != nil {
		return err
	}
	defer image.Close()
	if v.FilesystemBytes == 0 {
		return v.makeFilesystem(ctx, image, at)
	}
	if err := v.mountFilesystem(ctx, image, at); err != nil {
		return err
	}
	return v.grow(at)
}

// resume looks at what an earlier call has left at the staging path: true if it is the mounted
// filesystem. One that may not be whole, because its record does not say so, nobody has seen: it is
// unmounted, to be made anew.
func (v Volume) resume(at mount.Target) (done bool, err error) {
	device, err := deviceAt(at)
	if errors.Is(err, errNotMounted) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer device.Close()
	if !v.Pool.IsImageOf(v.ID, device) {
		return false, fmt.Errorf("%w: something else is mounted at %s: unmount it", volume.ErrInUse, at)
	}
	if v.FilesystemBytes > 0 {
		return true, nil
	}
	return false, mount.Unmount(at)
}

var errNotMounted = errors.New("nothing is mounted there")

// deviceAt is the device of the filesystem that is mounted at a target. Errors: errNotMounted,
// ErrInUse when it is on none.
func deviceAt(at mount.Target) (*loopdev.Device, error) {
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

// numberAt is the number of the device that deviceAt opens, also when the pool's disk has died and
// the device says nothing of its file.
func numberAt(at mount.Target) (int, error) {
	f, mounted, err := mount.Open(at)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if !mounted {
		return 0, errNotMounted
	}
	number, err := loopdev.NumberUnder(f)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: what is mounted at %s is no image: unmount it", volume.ErrInUse, at)
	}
	return number, err
}

// numberOfMountAt is numberAt also where the filesystem itself has died and answers nothing: the
// mount table has its device.
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

// makeFilesystem makes the filesystem on an image of which nobody has seen anything, and then says
// so in the record. Until that is durable, a crash makes it begin again.
func (v Volume) makeFilesystem(ctx context.Context, image *os.File, at mount.Target) error {
	if err := v.Pool.CheckDetached(v.ID); err != nil {
		return err
	}
	device, err := v.format(ctx, image, at)
	if err != nil {
		return err
	}
	defer device.Close()
	err = v.populate(at)
	if err == nil {
		failpoint.Here("stage.populated")
		err = v.Pool.SetFilesystemBytes(v.ID, v.CapacityBytes)
	}
	if err != nil {
		return errors.Join(err, mount.Unmount(at))
	}
	return nil
}

// format makes the filesystem and mounts it, while nobody copies the image.
func (v Volume) format(
	ctx context.Context, image *os.File, at mount.Target,
) (*loopdev.Device, error) {
	release, err := v.Pool.Claim(v.ID)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := v.Pool.ClearImage(v.Volume, image); err != nil {
		return nil, err
	}
	failpoint.Here("stage.cleared")
	device, err := v.attach(ctx, image, loopdev.Options{})
	if err != nil {
		return nil, err
	}
	if err := onDirectory(
		at,
		func(dir *os.File) error { return filesystem.Make(device.Path(), dir, v.Spec) },
	); err != nil {
		device.Close()
		return nil, err
	}
	failpoint.Here("stage.made")
	return device, nil
}

// populate makes what pods will see, durable with all of the filesystem.
func (v Volume) populate(at mount.Target) error {
	root, err := openRoot(at)
	if err != nil {
		return err
	}
	defer root.Close()
	data, err := backend.MakeEmpty(root, v.Spec)
	if err != nil {
		return err
	}
	defer data.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(root.Fd())))
}

// openRoot opens the root of the filesystem that is mounted at a target. No pod sees it.
func openRoot(at mount.Target) (*os.File, error) {
	f, _, err := mount.Open(at)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

func onDirectory(at mount.Target, do func(dir *os.File) error) error {
	dir, _, err := mount.Open(at)
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(dir)
}

// mountFilesystem mounts what is there. A device that has it mounted elsewhere, in a pod that
// outlived its staging path, is used again.
func (v Volume) mountFilesystem(ctx context.Context, image *os.File, at mount.Target) error {
	release, err := v.Pool.Claim(v.ID) // a copy of an image that nobody can write to takes its time
	if err != nil {
		return err
	}
	defer release()
	device, err := loopdev.Find(image, loopdev.ReadWrite)
	if errors.Is(err, os.ErrNotExist) {
		device, err = v.attach(ctx, image, loopdev.Options{})
	}
	if err != nil {
		return err
	}
	defer device.Close()
	claimed, err := device.IsClaimed()
	if err != nil {
		return err
	}
	do := filesystem.Mount
	if claimed {
		do = filesystem.MountAgain
	}
	err = onDirectory(at, func(dir *os.File) error { return do(device.Path(), dir, v.Spec) })
	failpoint.Here("stage.mounted")
	if err != nil {
		return fmt.Errorf("stage volume %s: %w", v.ID, err)
	}
	return nil
}

func (v Volume) attach(
	ctx context.Context, image *os.File, options loopdev.Options,
) (*loopdev.Device, error) {
	device, err := loopdev.Attach(image, options)
	if err != nil {
		return nil, fmt.Errorf("attach volume %s: %w", v.ID, err)
	}
	if !device.IsDirect() {
		klog.FromContext(
			ctx,
		).Info("The pool's filesystem has no direct I/O: what a volume's image holds is cached twice",
			"volumeID", v.ID, "pool", v.Pool.Name(), "device", device.Path())
	}
	if err := device.UnthrottleWriteback(); err != nil {
		klog.FromContext(
			ctx,
		).Error(
			err,
			"The kernel throttles what pods write to a volume's image: give the driver a /sys that it may write",
			"volumeID",
			v.ID,
			"device",
			device.Path(),
		)
	}
	return device, nil
}

// grow makes the filesystem at a mount point of it as large as the image, and says so in the
// record.
func (v Volume) grow(at mount.Target) error {
	if v.FilesystemBytes >= v.CapacityBytes {
		return nil
	}
	device, err := deviceAt(at)
	if err != nil {
		return err
	}
	defer device.Close()
	if err := device.SetCapacity(); err != nil {
		return err
	}
	failpoint.Here("expand.device-grown")
	if err := filesystem.Grow(device.Path(), at.String(), v.Spec.FSType); err != nil {
		return fmt.Errorf("grow the filesystem of volume %s: %w", v.ID, err)
	}
	failpoint.Here("expand.filesystem-grown")
	return v.Pool.SetFilesystemBytes(v.ID, v.CapacityBytes)
}

// Grow makes a filesystem that is mounted at one of the candidates as large as its image has
// become. One that is mounted at none grows when it is staged.
func (v Volume) Grow(candidates ...mount.Target) error {
	for _, at := range candidates {
		if v.isDirectoryAt(at) { // btrfs(8) takes nothing else
			return v.grow(at)
		}
	}
	return nil
}

// isDirectoryAt says whether a directory of the filesystem in the volume's image is mounted at a
// target.
func (v Volume) isDirectoryAt(at mount.Target) bool {
	f, mounted, err := mount.Open(at)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	return err == nil && info.IsDir() && mounted && v.IsOn(f)
}

// Open opens what pods are to see of a volume that is staged, with O_PATH. The caller closes it.
// Errors: ErrInUse when it is not staged there.
func (v Volume) Open(at mount.Target) (*os.File, error) {
	f, mounted, err := mount.Open(at)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: volume %s is not staged at %s", volume.ErrInUse, v.ID, at)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !mounted || !v.IsOn(f) || v.FilesystemBytes == 0 {
		return nil, fmt.Errorf("%w: volume %s is not staged at %s", volume.ErrInUse, v.ID, at)
	}
	fd, err := unix.Openat2(int(f.Fd()), pool.ImageData, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: the image of volume %s has no %s: %w", volume.ErrCorrupt, v.ID,
			pool.ImageData, err)
	}
	return os.NewFile(uintptr(fd), pool.ImageData), nil
}

// IsOn says whether an open file, also one opened with O_PATH, is of the filesystem in the volume's
// image.
func (v Volume) IsOn(f *os.File) bool {
	device, err := loopdev.Under(f)
	if err != nil {
		return false
	}
	defer device.Close()
	return v.Pool.IsImageOf(v.ID, device)
}

// Unmount takes the filesystem of a volume's image off the staging path; the device goes with the
// last mount of it. It needs no pool: a volume whose disk has died can be unstaged. Nothing there
// is no error. Errors: ErrInUse when something else is there.
func Unmount(id volume.ID, at mount.Target) error {
	// as it is with any volume that is no image
	if mounted, err := mount.Mounted(at); !mounted && err == nil {
		return nil
	}
	number, err := numberOfMountAt(at)
	if errors.Is(err, errNotMounted) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !mayBeImageOf(id, number) {
		return fmt.Errorf("%w: what is mounted at %s is not volume %s: it is left alone", volume.ErrInUse,
			at, id)
	}
	err = mount.Unmount(at)
	failpoint.Here("unstage.unmounted")
	return err
}

// MayShow says, without the volume's pool, whether a target may show a volume's image: that is
// where the kernel says that the file of the device is. Of a raw block volume's device a pod can
// have taken the file, or exchanged it: such a device may be anybody's.
func MayShow(id volume.ID, at mount.Target) bool {
	number, err := deviceNodeAt(at)
	if err == nil {
		return mayBeImageOf(id, number) || saysNothing(number)
	}
	number, err = numberOfMountAt(at)
	return err == nil && mayBeImageOf(id, number)
}

// saysNothing says whether a device has no file, or one that a pod may have given it.
func saysNothing(number int) bool {
	device, err := loopdev.Open(number)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer device.Close()
	return device.Access() == loopdev.ReadOnly && isGuarded(number)
}

func mayBeImageOf(id volume.ID, device int) bool {
	path, err := loopdev.BackingPath(device)
	return err == nil && slices.ContainsFunc(strings.Split(path, "/"), func(part string) bool {
		// in the trash it has a suffix
		return part == id.Dir() || strings.HasPrefix(part, id.Dir()+".")
	})
}
