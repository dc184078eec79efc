package request

import (
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ParseGroupSnapshot reads a CreateVolumeGroupSnapshotRequest. All volumes are in the returned
// pool. Errors: ErrInvalid; ErrNotFound for a volume that this driver cannot have made;
// ErrPrecondition for volumes of several pools.
func ParseGroupSnapshot(
	req *csi.CreateVolumeGroupSnapshotRequest,
) (_ volume.GroupSnapshotRequest, in volume.PoolID, err error) {
	name, err := volume.ParseNewName(req.GetName())
	if err != nil {
		return volume.GroupSnapshotRequest{}, "", err
	}
	owner, err := volume.ParseGroupSnapshotParameters(req.GetParameters())
	if err != nil {
		return volume.GroupSnapshotRequest{}, "", err
	}
	sources, err := parseSources(req.GetSourceVolumeIds())
	if err != nil {
		return volume.GroupSnapshotRequest{}, "", err
	}
	group, err := volume.NewSnapshotGroup(name, sources)
	if err != nil {
		return volume.GroupSnapshotRequest{}, "", err
	}
	if err := checkOnePool(sources); err != nil {
		return volume.GroupSnapshotRequest{}, "", err
	}
	return volume.GroupSnapshotRequest{Group: group, Owner: owner}, sources[0].Pool(), nil
}

func parseSources(ids []string) (sources []volume.ID, err error) {
	for _, id := range ids {
		if volume.IsReferenceID(id) {
			return nil, fmt.Errorf(
				"%w: volume %s is a path of the host or content of git, in no pool: it has no snapshots",
				volume.ErrInvalid, id)
		}
		source, err := volume.ParseID(id)
		if err != nil {
			return nil, err
		}
		sources = append(sources, source)
	}
	return sources, nil
}

// checkOnePool refuses volumes of several pools, on one node or on several: the pools have no
// moment in common. Errors: ErrPrecondition.
func checkOnePool(sources []volume.ID) error {
	for _, source := range sources[1:] {
		if source.Pool() != sources[0].Pool() {
			return fmt.Errorf("%w: volumes %s and %s are in different pools, on one node or on two: a "+
				"group snapshot shows one moment of one pool. Have the claims in one pool of one node: "+
				"pods that use all of them, or pod affinity", volume.ErrPrecondition, sources[0], source)
		}
	}
	return nil
}
