package controllerserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ControllerExpandVolume grows a volume of a pool while pods use it. The growth is durable when the
// call returns. A directory is then as large as it should be. Of an image only the file has grown;
// NodeExpandVolume grows the device and the filesystem, or the next staging does. Both begin with
// the same pool.Expand, so the second of the two calls finds the size that it asks for. Without
// room the answer is OUT_OF_RANGE.
func (s *Server) ControllerExpandVolume(
	ctx context.Context, req *csi.ControllerExpandVolumeRequest,
) (*csi.ControllerExpandVolumeResponse, error) {
	if req.GetVolumeId() != "" && req.GetCapacityRange() == nil {
		return nil, fmt.Errorf("%w: capacity_range is missing", volume.ErrInvalid)
	}
	size, err := volume.ParseSizeRange(req.GetCapacityRange().GetRequiredBytes(),
		req.GetCapacityRange().GetLimitBytes())
	if err != nil {
		return nil, err
	}
	if volume.IsReferenceID(req.GetVolumeId()) {
		return nil, fmt.Errorf("%w: volume %s is a path of the host or content of git, and does not "+
			"grow: make a new claim, of the size that is wanted", volume.ErrInvalid, req.GetVolumeId())
	}
	found, p, err := s.find(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	v, err := p.Expand(ctx, found.ID, size)
	if errors.Is(err, volume.ErrNoSpace) {
		// Of RESOURCE_EXHAUSTED external-resizer does not know whether the volume grows all the same, and
		// does not let the user ask for less (csi-lib-utils and pkg/util IsFinalError). The specification
		// has OUT_OF_RANGE for a size that is not possible.
		return nil, fmt.Errorf("%w: %s", volume.ErrOutOfRange, err.Error())
	}
	if err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{
		CapacityBytes:         v.CapacityBytes,
		NodeExpansionRequired: v.Spec.IsImage(),
	}, nil
}
