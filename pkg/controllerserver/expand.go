package controllerserver

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ControllerExpandVolume grows a volume of a pool while pods use it. The growth is durable when the
// call returns. A directory is then as large as it should be. Of an image only the file has grown;
// NodeExpandVolume grows the device and the filesystem, or the next staging does. Both begin with
// the same pool.Expand, so the second of the two calls finds the size that it asks for.
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
		return nil, fmt.Errorf("%w: volume %s is a path of the host, and has no size that could grow",
			volume.ErrInvalid, req.GetVolumeId())
	}
	found, p, err := s.find(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	v, err := p.Expand(ctx, found.ID, size)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{
		CapacityBytes:         v.CapacityBytes,
		NodeExpansionRequired: v.Spec.IsImage(),
	}, nil
}
