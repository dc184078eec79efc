package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// OpenImage opens the image of a volume with O_PATH, for a loop device. It is as large as the
// record says. The caller closes it. Errors: ErrNotFound, ErrCorrupt.
func (p *Pool) OpenImage(id volume.ID) (*os.File, error) {
	v, err := p.Get(id)
	if err != nil {
		return nil, err
	}
	if e, ok := p.volumes.catalog.Get(id.Dir()); ok {
		if err := p.syncUnsynced(e); err != nil {
			return nil, err
		}
	}
	f, err := p.Data(id)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (!v.Spec.IsImage() || st.Size != v.CapacityBytes) {
		err = fmt.Errorf(
			"%w: the image of volume %s has %d bytes, and its record says %d: it is not used. %s",
			volume.ErrCorrupt, id, st.Size, v.CapacityBytes, p.RepairHint(id))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// BeginFilesystem makes an image, open with O_PATH, ready for the filesystem that the caller makes
// next, with nobody able to copy the image (Claim). Before that it records that a filesystem is
// being made, durably. Only an image whose record says so is cleared: a crash has interrupted the
// driver there, and nobody has seen the filesystem. Any other image that holds anything but zeroes
// is left as it is. Errors: ErrCorrupt for such an image; ErrInUse when the image is on a device, or
// has its filesystem.
func (p *Pool) BeginFilesystem(ctx context.Context, id volume.ID, f *os.File) error {
	e, err := p.find(id)
	if err != nil {
		return err
	}
	v := p.volumeOf(e)
	if v.FilesystemBytes > 0 {
		return fmt.Errorf("%w: volume %s has its filesystem", volume.ErrInUse, id)
	}
	if !v.Formatting {
		if err := p.checkBlank(ctx, id, f); err != nil {
			return err
		}
	}
	if err := image.CheckDetached(f); err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	if !v.Formatting {
		v.Formatting = true
		return p.putRecord(e, v)
	}
	err = p.syncUnsynced(e)
	if err == nil {
		err = image.New(v.Spec.Allocation).Clear(f)
	}
	if err != nil {
		return fmt.Errorf("clear the image of volume %s: %w", id, err)
	}
	return nil
}

// checkBlank refuses to make a filesystem where something is already. Errors: ErrCorrupt.
func (p *Pool) checkBlank(ctx context.Context, id volume.ID, f *os.File) error {
	content, err := image.Inspect(ctx, f)
	if err == nil && content.IsBlank() {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf(
		"%w: the record of volume %s says that no filesystem was made yet, and there is an %s: it is left as it is. %s",
		volume.ErrCorrupt, id, errors.Join(errors.New(content.String()), err), p.RepairHint(id))
}

// RepairHint says what an operator can do about a record that does not fit the volume's data.
func (p *Pool) RepairHint(id volume.ID) string {
	return fmt.Sprintf("If the record is wrong, stop the driver on this node, and run "+
		"csi-hostpath repair --pool %s --volume %s", p.opts.Path, id)
}

// SetFilesystemBytes records that a volume's image has a filesystem of that size, durably. It takes
// no context: the work is done, and a caller that has given up would have it done again. Errors:
// ErrNotFound, ErrCorrupt, ErrBusy.
func (p *Pool) SetFilesystemBytes(id volume.ID, bytes int64) error {
	unlock, err := p.volumes.catalog.Lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := p.find(id)
	if err != nil {
		return err
	}
	v := p.volumeOf(e)
	if v.FilesystemBytes == bytes {
		return p.syncUnsynced(e)
	}
	// A copy that began before it has a record without filesystem, and the copy's image would be
	// cleared.
	if v.FilesystemBytes == 0 {
		if err := p.volumes.catalog.CheckUnshared(id); err != nil {
			return err
		}
	}
	v.FilesystemBytes, v.Formatting = bytes, false
	return p.putRecord(e, v)
}

// putRecord gives a volume another record, durably.
func (p *Pool) putRecord(was *entry, v volume.Volume) error {
	if err := p.replaceRecord(v); err != nil {
		return err
	}
	return p.putReplaced(was, v)
}

// IsImageOf says whether a device has a volume's image.
func (p *Pool) IsImageOf(id volume.ID, d *loopdev.Device) bool {
	f, err := p.AnyData(id)
	if err != nil {
		return false
	}
	defer f.Close()
	return image.IsOn(f, d)
}

// imageAt says which volume a mount shows that is of the filesystem in an image, or of the node of
// its device.
func (p *Pool) imageAt(m mount.Mount) (volume.ID, bool) {
	d, err := image.DeviceOf(m)
	if err != nil {
		return volume.ID{}, false
	}
	defer d.Close()
	return p.VolumeOn(d)
}

// VolumeOn is the volume of the pool whose image a device has. The kernel's path of the file says
// only where to look.
func (p *Pool) VolumeOn(d *loopdev.Device) (volume.ID, bool) {
	file, err := loopdev.BackingPath(d.Number())
	if err != nil || path.Base(path.Dir(path.Dir(file))) != volumesDir {
		return volume.ID{}, false
	}
	id, err := volume.IDFromDir(p.id, path.Base(path.Dir(file)))
	return id, err == nil && p.IsImageOf(id, d)
}

// CheckDetached refuses a volume whose image is on a loop device: the volume is staged, or somebody
// else looks into it. Errors: ErrInUse.
func (p *Pool) CheckDetached(id volume.ID) error {
	if err := p.checkDetached(p.volumes.dir, id.Dir()); err != nil {
		return fmt.Errorf("volume %s: %w", id, err)
	}
	return nil
}

func (p *Pool) checkDetached(parent openat.Dir, entry string) error {
	f, err := parent.Resolve(entry+"/"+dataEntry, unix.O_PATH, openat.OnMount)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // it has no image
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return image.CheckDetached(f)
}

// Claim keeps everybody from copying a volume until release: it is about to be written to. Errors:
// ErrBusy while it is copied or changed.
func (p *Pool) Claim(id volume.ID) (release func(), err error) {
	return p.volumes.catalog.LockUnshared(id)
}
