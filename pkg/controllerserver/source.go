package controllerserver

import (
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// sources are the node's pools, for copies.
type sources struct {
	pools Pools
	place string // this node
}

// ByID implements pool.Sources. What this node does not have another one has: the scheduler is to
// look there. So it is when the source could be in a pool of this node that is not open, as an
// optional pool is on most nodes: nothing is made where the source is not, and UNAVAILABLE would
// keep the pod on this node for ever. Errors: ErrElsewhere.
func (s sources) ByID(id volume.PoolID) (*pool.Pool, error) {
	p, err := s.pools.ByID(id)
	if !errors.Is(err, volume.ErrNotFound) && !errors.Is(err, volume.ErrUnavailable) {
		return p, err
	}
	// The cause is not wrapped: it would go out with its own code.
	elsewhere := fmt.Errorf("%w, %s: the source is in pool %s of another node, and is copied only "+
		"there. With a class of Immediate binding the other nodes try next; with "+
		"WaitForFirstConsumer the scheduler has to choose that node for the pod",
		volume.ErrElsewhere, s.place, id)
	if errors.Is(err, volume.ErrUnavailable) {
		elsewhere = fmt.Errorf("%w (if it is on this node: %s)", elsewhere, err.Error())
	}
	return nil, elsewhere
}

// sourceMessage is the source of a volume as CSI has it; nil for none.
func sourceMessage(source volume.Source) *csi.VolumeContentSource {
	if id, ok := source.Snapshot(); ok {
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id.String()},
		}}
	}
	if id, ok := source.Volume(); ok {
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id.String()},
		}}
	}
	return nil
}
