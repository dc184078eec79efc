// Package staging brings the image of a volume to where it can be published: on a loop device, with
// its filesystem mounted at the staging path. What is attached and mounted is read from the kernel
// each time; nothing is remembered.
package staging

import (
	"context"
	"errors"
	"fmt"
	"os"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Volume is a volume with an image. No other call changes the volume meanwhile.
type Volume struct{ pool.Volume }

// Mount mounts the filesystem of the volume's image at the staging path, a directory of the
// caller's. The first time it makes the filesystem. Later it checks the filesystem, and tries to
// grow it when the image has grown; a volume whose growth fails is mounted with the size that it
// has. The device goes with the last mount of the filesystem. Doing it again changes nothing.
// Errors: ErrInUse when something else is mounted there, ErrCorrupt when the filesystem is damaged,
// ErrNode when a program is missing, ErrBusy while the image is copied.
func (v Volume) Mount(ctx context.Context, at mount.Target) error {
	err := v.mount(ctx, at)
	switch {
	case err == nil:
		v.RemoveFault(volume.FaultImageDamaged)
	case errors.Is(err, volume.ErrCorrupt):
		v.AddFault(volume.FaultImageDamaged)
	}
	return err
}

func (v Volume) mount(ctx context.Context, at mount.Target) error {
	done, err := v.resume(at)
	if err != nil {
		return err
	}
	if done {
		v.TryGrow(ctx, at)
		return nil
	}
	f, err := v.OpenImage()
	if err != nil {
		return err
	}
	defer f.Close()
	if v.FilesystemBytes == 0 {
		return v.makeFilesystem(ctx, f, at)
	}
	if err := v.mountFilesystem(ctx, f, at); err != nil {
		return err
	}
	v.TryGrow(ctx, at)
	return nil
}

// resume looks at what an earlier call has left at the staging path: true if it is the mounted
// filesystem. A filesystem that was being made may be incomplete, and nobody has seen it: it is
// unmounted, to be made anew.
func (v Volume) resume(at mount.Target) (done bool, err error) {
	device, err := image.DeviceAt(at)
	if errors.Is(err, image.ErrNotMounted) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer device.Close()
	if !v.HasImageOn(device) {
		return false, fmt.Errorf("%w: something else is mounted at %s: unmount it", volume.ErrInUse, at)
	}
	if v.FilesystemBytes > 0 {
		return true, nil
	}
	if !v.Formatting { // it is none that the driver was making: makeFilesystem refuses it
		return false, nil
	}
	return false, mount.Unmount(at)
}

// mountDevice mounts the filesystem of a device at a target, by one of the functions of package
// filesystem.
func (v Volume) mountDevice(
	device *loopdev.Device,
	at mount.Target,
	do func(device string, at *os.File, spec volume.Spec) error,
) error {
	dir, _, err := mount.Open(at)
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(device.Path(), dir, v.Spec)
}

// mountFilesystem mounts what is there. The device that has it mounted elsewhere, in a pod that
// outlived its staging path, is used again.
func (v Volume) mountFilesystem(ctx context.Context, f *os.File, at mount.Target) error {
	l, err := v.LockUncopied() // nobody may write to an image that is being copied block by block
	if err != nil {
		return err
	}
	defer l.Unlock()
	device, err := loopdev.Find(f, loopdev.ReadWrite)
	if errors.Is(err, os.ErrNotExist) {
		device, err = v.attach(ctx, f, loopdev.Options{})
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
	err = v.mountDevice(device, at, do)
	failpoint.Here("stage.mounted")
	unexpected := new(filesystem.UnexpectedError)
	switch {
	case errors.As(err, &unexpected):
		return fmt.Errorf("stage volume %s: %w. %s", v.ID, err, v.RepairHint())
	case err != nil:
		return fmt.Errorf("stage volume %s: %w", v.ID, err)
	default:
		return nil
	}
}

// attach puts the image on a device, and logs what makes the device slow.
func (v Volume) attach(
	ctx context.Context, f *os.File, options loopdev.Options,
) (*loopdev.Device, error) {
	device, err := loopdev.Attach(f, options)
	if err != nil {
		return nil, fmt.Errorf("attach volume %s: %w", v.ID, err)
	}
	log := klog.FromContext(ctx).WithValues("volumeID", v.ID, "device", device.Path())
	if !device.IsDirect() {
		log.Info("The pool's filesystem has no direct I/O: the content of a volume's image is cached twice",
			"pool", v.PoolName())
	}
	if err := device.UnthrottleWriteback(); err != nil {
		log.Error(err,
			"The kernel throttles what pods write to a volume's image: give the driver a /sys that it may write")
	}
	return device, nil
}

// grow makes the filesystem at a mount point of it as large as the image, and records that. The
// pool counts the volumes for which that fails.
func (v Volume) grow(at mount.Target) error {
	if v.FilesystemBytes >= v.CapacityBytes {
		return nil
	}
	if err := v.growTo(at); err != nil {
		v.AddFault(volume.FaultGrowthFailed)
		return fmt.Errorf("the filesystem of volume %s keeps its %d bytes, it could not be grown to %d: %w",
			v.ID, v.FilesystemBytes, v.CapacityBytes, err)
	}
	return nil
}

func (v Volume) growTo(at mount.Target) error {
	device, err := image.DeviceAt(at)
	if err != nil {
		return err
	}
	defer device.Close()
	if err := device.SetCapacity(); err != nil {
		return err
	}
	failpoint.Here("expand.device-grown")
	if err := filesystem.Grow(device.Path(), at.String(), v.Spec.FSType); err != nil {
		return err
	}
	failpoint.Here("expand.filesystem-grown")
	return v.recordFilesystem(v.CapacityBytes)
}

// TryGrow is grow where the volume can be used all the same: a failure is logged.
func (v Volume) TryGrow(ctx context.Context, at mount.Target) {
	if err := v.grow(at); err != nil {
		klog.FromContext(ctx).Error(err, "The filesystem of a volume could not be grown: pods get it with the size that "+
			"it has, and the driver tries again", "volumeID", v.ID)
	}
}

// Grow makes a filesystem that is mounted at one of the candidates as large as its image has
// become. A filesystem that is mounted at none of them grows when it is staged.
func (v Volume) Grow(candidates ...mount.Target) error {
	for _, at := range candidates {
		if v.isDirectoryAt(at) { // btrfs(8) accepts nothing else
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
	data, err := image.OpenData(f)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.ID, err)
	}
	return data, nil
}

// IsOn says whether an open file, also one opened with O_PATH, is of the filesystem in the volume's
// image.
func (v Volume) IsOn(f *os.File) bool {
	device, err := loopdev.Under(f)
	if err != nil {
		return false
	}
	defer device.Close()
	return v.HasImageOn(device)
}
