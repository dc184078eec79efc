package router

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// ControllerModifyVolume has a volume modified by its node.
func (r *Router) ControllerModifyVolume(
	ctx context.Context, req *csi.ControllerModifyVolumeRequest,
) (*csi.ControllerModifyVolumeResponse, error) {
	n, err := r.nodeOfVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return call(ctx, r, n, "ControllerModifyVolume", csi.ControllerClient.ControllerModifyVolume, req)
}
