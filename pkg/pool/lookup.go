package pool

import (
	"path"

	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// VolumeAt says which volume's data a mount shows, if one of this pool.
func (p *Pool) VolumeAt(m mount.Mount) (volume.ID, bool) {
	rest, ok := p.layout.Location.Below(m)
	if !ok {
		return p.imageAt(m)
	}
	dirName, ok := layout.VolumeDirOf(rest)
	if !ok {
		return volume.ID{}, false
	}
	id, err := volume.IDFromDir(p.id, dirName)
	return id, err == nil
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
