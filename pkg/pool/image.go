package pool

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// OpenImage opens the image of a volume with O_PATH, for a loop device. It is as large as the
// record says. The caller closes it. Errors: ErrCorrupt.
func (v Volume) OpenImage() (*os.File, error) {
	if err := v.syncUnsynced(); err != nil {
		return nil, err
	}
	f, err := v.Data()
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (!v.Spec.IsImage() || st.Size != v.CapacityBytes) {
		err = fmt.Errorf(
			"%w: the image of volume %s has %d bytes, and its record says %d: it is not used. %s",
			volume.ErrCorrupt, v.ID, st.Size, v.CapacityBytes, v.RepairHint())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// RepairHint says what an operator can do about a record that does not fit the volume's data.
func (v Volume) RepairHint() string {
	return fmt.Sprintf("If the record is wrong, stop the driver on this node, and run "+
		"csi-hostpath repair --pool %s --volume %s", v.pool.opts.Path, v.ID)
}

// HasImageOn says whether a device has the volume's image.
func (v Volume) HasImageOn(d *loopdev.Device) bool { return v.pool.hasImageOn(v.ID, d) }

func (p *Pool) hasImageOn(id volume.ID, d *loopdev.Device) bool {
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
	n, ok := image.NumberOf(m)
	if !ok {
		return volume.ID{}, false
	}
	if _, ok := p.VolumeNamedBy(n); !ok {
		return volume.ID{}, false
	}
	d, err := image.DeviceOf(m)
	if err != nil {
		return volume.ID{}, false
	}
	defer d.Close()
	return p.VolumeOn(d)
}

// VolumeOn returns the volume of the pool whose image is on the device. The kernel's path of the
// file only tells which volume to compare.
func (p *Pool) VolumeOn(d *loopdev.Device) (volume.ID, bool) {
	id, ok := p.VolumeNamedBy(d.Number())
	return id, ok && p.hasImageOn(id, d)
}

// VolumeNamedBy returns the volume that the kernel's path of a device's file names, if it could be
// one of the pool. Neither the device nor its file is asked, because a device that is not the
// pool's may have its file on a filesystem that does not answer.
func (p *Pool) VolumeNamedBy(device int) (volume.ID, bool) {
	file, err := loopdev.BackingPath(device)
	if err != nil || path.Base(path.Dir(path.Dir(file))) != layout.VolumesDir {
		return volume.ID{}, false
	}
	id, err := volume.IDFromDir(p.id, path.Base(path.Dir(file)))
	if err != nil {
		return volume.ID{}, false
	}
	_, ok := p.volumes.catalog.Get(id.Dir())
	return id, ok
}
