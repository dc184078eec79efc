package request

import (
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ParseSnapshot reads a CreateSnapshotRequest without its topology. Errors: ErrInvalid, and
// ErrNotFound for a volume that this driver cannot have made.
func ParseSnapshot(req *csi.CreateSnapshotRequest) (volume.SnapshotRequest, error) {
	name, err := volume.ParseNewName(req.GetName())
	if err != nil {
		return volume.SnapshotRequest{}, err
	}
	if volume.IsReferenceID(req.GetSourceVolumeId()) {
		return volume.SnapshotRequest{}, fmt.Errorf(
			"%w: volume %s is a path of the host or content of git, in no pool: it has no snapshots",
			volume.ErrInvalid,
			req.GetSourceVolumeId(),
		)
	}
	source, err := volume.ParseID(req.GetSourceVolumeId())
	if err != nil {
		return volume.SnapshotRequest{}, err
	}
	owner, err := volume.ParseSnapshotParameters(req.GetParameters())
	if err != nil {
		return volume.SnapshotRequest{}, err
	}
	return volume.SnapshotRequest{Name: name, Source: source, Owner: owner}, nil
}
