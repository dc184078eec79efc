package router

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/identity"
	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

var _ csi.GroupControllerServer = (*Router)(nil)

// GroupControllerGetCapabilities advertises what is built.
func (*Router) GroupControllerGetCapabilities(
	context.Context, *csi.GroupControllerGetCapabilitiesRequest,
) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	return &csi.GroupControllerGetCapabilitiesResponse{
		Capabilities: identity.GroupControllerCapabilities(),
	}, nil
}

// CreateVolumeGroupSnapshot has the node of the volumes take snapshots of all of them at one
// moment. Volumes of several nodes are refused.
func (r *Router) CreateVolumeGroupSnapshot(
	ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest,
) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	_, in, err := request.ParseGroupSnapshot(req)
	if err != nil {
		return nil, err
	}
	n, err := r.ownerOf(in)
	if err != nil {
		return nil, fmt.Errorf("group snapshot %q: %w", req.GetName(), err)
	}
	resp, err := call(ctx, r, n, "CreateVolumeGroupSnapshot",
		csi.GroupControllerClient.CreateVolumeGroupSnapshot, req)
	if status.Code(err) == codes.Unimplemented {
		return nil, fmt.Errorf("%w: the driver of node %s is of a release without group snapshots: "+
			"upgrade it", volume.ErrNode, n.name)
	}
	if err != nil {
		return nil, err
	}
	return resp, r.checkGroupSnapshot(n, resp.GetGroupSnapshot())
}

// checkGroupSnapshot refuses a group snapshot that the node cannot have taken.
func (r *Router) checkGroupSnapshot(n *node, g *csi.VolumeGroupSnapshot) error {
	id, err := volume.ParseGroupSnapshotID(g.GetGroupSnapshotId())
	if err != nil {
		return fmt.Errorf("node %s has answered with a group snapshot %q", n.name,
			clip(g.GetGroupSnapshotId()))
	}
	errs := []error{r.checkOwner(n, id.Pool())}
	for _, s := range g.GetSnapshots() {
		errs = append(errs, r.checkSnapshot(n, s))
	}
	return errors.Join(errs...)
}

// DeleteVolumeGroupSnapshot has a group snapshot deleted by its node. What is no group snapshot's
// ID names none.
func (r *Router) DeleteVolumeGroupSnapshot(
	ctx context.Context, req *csi.DeleteVolumeGroupSnapshotRequest,
) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	id, err := volume.ParseGroupSnapshotID(req.GetGroupSnapshotId())
	if errors.Is(err, volume.ErrNotFound) {
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	n, err := r.ownerOf(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("delete group snapshot %s: %w", id, err)
	}
	return call(ctx, r, n, "DeleteVolumeGroupSnapshot",
		csi.GroupControllerClient.DeleteVolumeGroupSnapshot, req)
}

// GetVolumeGroupSnapshot asks the node of the group snapshot.
func (r *Router) GetVolumeGroupSnapshot(
	ctx context.Context, req *csi.GetVolumeGroupSnapshotRequest,
) (*csi.GetVolumeGroupSnapshotResponse, error) {
	id, err := volume.ParseGroupSnapshotID(req.GetGroupSnapshotId())
	if err != nil {
		return nil, err
	}
	n, err := r.ownerOf(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("group snapshot %s: %w", id, err)
	}
	resp, err := call(ctx, r, n, "GetVolumeGroupSnapshot",
		csi.GroupControllerClient.GetVolumeGroupSnapshot, req)
	if err != nil {
		return nil, err
	}
	return resp, r.checkGroupSnapshot(n, resp.GetGroupSnapshot())
}
