package router

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// CreateSnapshot has a snapshot taken by the node of its volume.
func (r *Router) CreateSnapshot(
	ctx context.Context, req *csi.CreateSnapshotRequest,
) (*csi.CreateSnapshotResponse, error) {
	create, err := request.ParseSnapshot(req)
	if err != nil {
		return nil, err
	}
	n, err := r.ownerOf(create.Source.Pool())
	if err != nil {
		return nil, fmt.Errorf("snapshot of volume %s: %w", create.Source, err)
	}
	if where := r.parseTopology(req.GetAccessibilityRequirements()); !where.has(n) {
		return nil, fmt.Errorf("%w, %s: a snapshot can be used only on the node of its volume, %s",
			volume.ErrElsewhere, where, n.name)
	}
	if req.GetAccessibilityRequirements() != nil {
		req.AccessibilityRequirements = r.onlyOn(n)
	}
	resp, err := call(ctx, r, n, "CreateSnapshot", csi.ControllerClient.CreateSnapshot, req)
	if err != nil {
		return nil, err
	}
	return resp, r.checkSnapshot(n, resp.GetSnapshot())
}

// checkSnapshot refuses a snapshot that the node cannot have taken.
func (r *Router) checkSnapshot(n *node, s *csi.Snapshot) error {
	id, err := volume.ParseSnapshotID(s.GetSnapshotId())
	if err != nil {
		return fmt.Errorf("node %s has answered with a snapshot %q", n.name, clip(s.GetSnapshotId()))
	}
	if err := r.checkOwner(n, id.Pool()); err != nil {
		return err
	}
	return r.checkTopology(n, s.GetAccessibleTopology())
}

// DeleteSnapshot has a snapshot deleted by its node. What is no snapshot's ID names none.
func (r *Router) DeleteSnapshot(
	ctx context.Context, req *csi.DeleteSnapshotRequest,
) (*csi.DeleteSnapshotResponse, error) {
	id, err := volume.ParseSnapshotID(req.GetSnapshotId())
	if errors.Is(err, volume.ErrNotFound) {
		return &csi.DeleteSnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	n, err := r.ownerOf(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	return call(ctx, r, n, "DeleteSnapshot", csi.ControllerClient.DeleteSnapshot, req)
}

// GetSnapshot asks the snapshot's node.
func (r *Router) GetSnapshot(
	ctx context.Context, req *csi.GetSnapshotRequest,
) (*csi.GetSnapshotResponse, error) {
	id, err := volume.ParseSnapshotID(req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	n, err := r.ownerOf(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return call(ctx, r, n, "GetSnapshot", csi.ControllerClient.GetSnapshot, req)
}
