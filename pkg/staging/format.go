package staging

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// makeFilesystem makes the filesystem on an image of which nobody has seen anything, and then
// records that. Until the record is durable, a crash makes it begin again. Errors: ErrCorrupt when
// the image has content that is not the driver's.
func (v Volume) makeFilesystem(ctx context.Context, f *os.File, at mount.Target) error {
	device, err := v.format(ctx, f, at)
	if err != nil {
		return err
	}
	defer device.Close()
	err = image.Populate(at, v.Spec)
	if err == nil {
		failpoint.Here("stage.populated")
		err = v.recordFilesystem(v.CapacityBytes)
	}
	if err != nil {
		return errors.Join(err, mount.Unmount(at))
	}
	return nil
}

// format makes the filesystem and mounts it, while nobody copies the image.
func (v Volume) format(
	ctx context.Context, f *os.File, at mount.Target,
) (*loopdev.Device, error) {
	l, err := v.LockUncopied()
	if err != nil {
		return nil, err
	}
	defer l.Unlock()
	if err := beginFormat(ctx, l, f); err != nil {
		return nil, err
	}
	failpoint.Here("stage.begun")
	device, err := v.attach(ctx, f, loopdev.Options{})
	if err != nil {
		return nil, err
	}
	if err := v.mountDevice(device, at, filesystem.Make); err != nil {
		device.Close()
		return nil, err
	}
	failpoint.Here("stage.made")
	return device, nil
}

// beginFormat makes an image, open with O_PATH, ready for its filesystem. Before that it records
// that a filesystem is being made, durably. Only an image whose record says so is cleared: a crash
// has interrupted the driver there, and nobody has seen the filesystem. Any other image with
// anything but zeroes is left as it is. Errors: ErrCorrupt for such an image; ErrInUse when the
// image is on a device, or has its filesystem.
func beginFormat(ctx context.Context, l pool.Locked, f *os.File) error {
	if l.FilesystemBytes > 0 {
		return fmt.Errorf("%w: volume %s has its filesystem", volume.ErrInUse, l.ID)
	}
	if !l.Formatting {
		if err := checkBlank(ctx, l.Volume, f); err != nil {
			return err
		}
	}
	if err := image.CheckDetached(f); err != nil {
		return fmt.Errorf("volume %s: %w", l.ID, err)
	}
	begun := l.Volume.Volume
	begun.Formatting = true
	err := l.ReplaceRecord(begun)
	if err == nil && l.Formatting {
		err = image.New(l.Spec.Allocation).Clear(f)
	}
	if err != nil {
		return fmt.Errorf("prepare the image of volume %s: %w", l.ID, err)
	}
	return nil
}

// checkBlank refuses to make a filesystem where something is already. Errors: ErrCorrupt.
func checkBlank(ctx context.Context, v pool.Volume, f *os.File) error {
	content, err := image.Inspect(ctx, f)
	switch {
	case err != nil: // its content is not known, so nothing is made there
		return fmt.Errorf("look into the image of volume %s: %w", v.ID, err)
	case content.IsBlank():
		return nil
	default:
		return fmt.Errorf(
			"%w: the record of volume %s says that no filesystem was made yet, and there is an %s: it is left as it is. %s",
			volume.ErrCorrupt, v.ID, content, v.RepairHint())
	}
}

// recordFilesystem records, durably, that the image has a filesystem of that size. It takes no
// context: the filesystem exists already, and without the record a later call would make it again.
// Errors: ErrNotFound, ErrCorrupt, ErrBusy.
func (v Volume) recordFilesystem(bytes int64) error {
	l, err := v.Lock()
	if err != nil {
		return err
	}
	defer l.Unlock()
	if l.FilesystemBytes == 0 {
		// A copy that began earlier has a record without filesystem, and the copy's image would be
		// cleared.
		if err := l.CheckUncopied(); err != nil {
			return err
		}
	}
	made := l.Volume.Volume
	made.FilesystemBytes, made.Formatting = bytes, false
	return l.ReplaceRecord(made)
}
