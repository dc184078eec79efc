package request

import (
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ParseSource reads what a volume is to be made from. An ID that this driver cannot have given out
// names nothing that exists (CSI spec, CreateVolume, "Source does not exist"). Errors: ErrNotFound,
// ErrInvalid.
func ParseSource(source *csi.VolumeContentSource) (volume.Source, error) {
	switch from := source.GetType().(type) {
	case nil:
		if source != nil {
			return volume.Source{}, fmt.Errorf(
				"%w: volume_content_source names neither a snapshot nor a volume",
				volume.ErrInvalid,
			)
		}
		return volume.Source{}, nil
	case *csi.VolumeContentSource_Snapshot:
		id, err := volume.ParseSnapshotID(from.Snapshot.GetSnapshotId())
		return volume.FromSnapshot(id), err
	case *csi.VolumeContentSource_Volume:
		if volume.IsReferenceID(from.Volume.GetVolumeId()) {
			return volume.Source{}, fmt.Errorf(
				"%w: volume %s is a path of the host or content of git, in no pool: it cannot be cloned",
				volume.ErrInvalid,
				from.Volume.GetVolumeId(),
			)
		}
		id, err := volume.ParseID(from.Volume.GetVolumeId())
		return volume.FromVolume(id), err
	default:
		return volume.Source{}, fmt.Errorf(
			"%w: volume_content_source has a type that this driver does not know",
			volume.ErrInvalid,
		)
	}
}
