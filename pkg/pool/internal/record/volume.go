package record

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	volumeVersion = 1
	// imageVersion is the version of a volume with an image: a driver that knows no images would
	// show pods the image itself.
	imageVersion = 2
)

// volumeRecord is volume.json.
type volumeRecord struct {
	header

	Spec          volume.Spec    `json:"spec"`
	CapacityBytes int64          `json:"capacityBytes"`
	SharedBytes   int64          `json:"sharedBytes,omitempty"`
	Created       time.Time      `json:"created"`
	Owner         volume.Owner   `json:"owner,omitzero"`
	Source        volume.Source  `json:"source,omitzero"`
	QuotaID       volume.QuotaID `json:"quotaTag,omitempty"`
	// FilesystemBytes is the size of the filesystem in an image. Once FilesystemBytes is set, the
	// driver never makes a filesystem in the image again.
	FilesystemBytes int64 `json:"filesystemBytes,omitempty"`
	// Formatting is written before a filesystem is made in an image, and removed when FilesystemBytes
	// is written: a driver that finds it may clear the image. A driver that does not know it clears
	// an image without FilesystemBytes anyway, so it needs no version of its own.
	Formatting bool `json:"formatting,omitempty"`
	// Mutable is what the volume's VolumeAttributesClass says. A driver that does not know it limits
	// nothing, and drops it when it replaces the record.
	Mutable volume.Mutable `json:"mutable,omitzero"`
}

// EncodeVolume is the record of a volume.
func EncodeVolume(v volume.Volume) ([]byte, error) {
	return encode(volumeRecord{
		header:          header{FormatVersion: versionOf(v.Spec), Name: v.Name.String()},
		Spec:            v.Spec,
		CapacityBytes:   v.CapacityBytes,
		SharedBytes:     v.SharedBytes,
		Created:         v.Created,
		Owner:           v.Owner,
		Source:          v.Source,
		QuotaID:         v.QuotaID,
		FilesystemBytes: v.FilesystemBytes,
		Formatting:      v.Formatting,
		Mutable:         v.Mutable,
	})
}

func versionOf(s volume.Spec) int {
	if s.IsImage() {
		return imageVersion
	}
	return volumeVersion
}

// DecodeVolume reads the record that was found in a directory of a pool. Errors: ErrCorrupt.
func DecodeVolume(pool volume.PoolID, dirName string, content []byte) (volume.Volume, error) {
	var r volumeRecord
	if err := decode(VolumeFile, content, &r); err != nil {
		return volume.Volume{}, err
	}
	name, err := r.parseName(VolumeFile, "volume", dirName, versions{volumeVersion, imageVersion})
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return volume.Volume{}, err
	}
	v := r.volume()
	v.ID, v.Name = volume.NewID(pool, name), name
	return v, nil
}

// volume is what the record says, but for the name.
func (r volumeRecord) volume() volume.Volume {
	return volume.Volume{
		Spec:            r.Spec,
		CapacityBytes:   r.CapacityBytes,
		SharedBytes:     r.SharedBytes,
		Created:         r.Created,
		Owner:           r.Owner,
		Source:          r.Source,
		QuotaID:         r.QuotaID,
		FilesystemBytes: r.FilesystemBytes,
		Formatting:      r.Formatting && r.FilesystemBytes == 0,
		Mutable:         r.Mutable,
	}
}

// SalvageVolume reads what can be read of a damaged record. Nothing is checked but the name, which
// is zero if it is none.
func SalvageVolume(pool volume.PoolID, content []byte) volume.Volume {
	var r volumeRecord
	_ = json.Unmarshal(content, &r) // what it cannot read stays zero
	v := r.volume()
	if name, err := volume.ParseName(r.Name); err == nil {
		v.ID, v.Name = volume.NewID(pool, name), name
	}
	return v
}

func (r volumeRecord) check() error {
	if err := r.Spec.Check(); err != nil {
		return corrupt(VolumeFile, err)
	}
	if err := errors.Join(r.Mutable.Check(), r.Mutable.CheckFits(r.Spec)); err != nil {
		return corrupt(VolumeFile, err)
	}
	return errors.Join(
		checkBytes(VolumeFile, "capacityBytes", r.CapacityBytes, 1),
		checkBytes(VolumeFile, "sharedBytes", r.SharedBytes, 0),
		checkFilesystem(VolumeFile, r.Spec, r.FilesystemBytes, r.CapacityBytes),
	)
}
