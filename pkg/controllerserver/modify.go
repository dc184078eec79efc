package controllerserver

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ControllerModifyVolume changes what the VolumeAttributesClass of a volume says, while pods use
// the volume. What the request does not name stays as it is. The change is durable before it holds,
// and holds when the call returns: a call that was cut off is done again, and so it is by the
// driver's start. Of ErrInvalid external-resizer knows that it will never succeed, and the user can
// go back.
func (s *Server) ControllerModifyVolume(
	ctx context.Context, req *csi.ControllerModifyVolumeRequest,
) (*csi.ControllerModifyVolumeResponse, error) {
	if volume.IsReferenceID(req.GetVolumeId()) {
		return nil, fmt.Errorf("%w: volume %s is a path of the host or content of git, and has no "+
			"mutable parameters", volume.ErrInvalid, req.GetVolumeId())
	}
	found, p, err := s.find(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	changes, err := request.ParseMutable(req.GetMutableParameters())
	if err != nil {
		return nil, err
	}
	wanted := changes.On(found.Mutable)
	if err := wanted.CheckFits(found.Spec); err != nil {
		return nil, fmt.Errorf("volume %s: %w", found.ID, err)
	}
	if err := s.Limiter.Check(wanted.IO); err != nil {
		return nil, fmt.Errorf("volume %s: %w", found.ID, err)
	}
	v, err := p.Modify(ctx, found.ID, changes)
	if err != nil {
		return nil, err
	}
	if err := (staging.Volume{Volume: v}).Limit(s.Limiter); err != nil {
		return nil, fmt.Errorf("limit volume %s: %w", v.ID, err)
	}
	failpoint.Here("modify.applied")
	return &csi.ControllerModifyVolumeResponse{}, nil
}
