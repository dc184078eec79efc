package controllerserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/csi-hostpath/csi-hostpath/pkg/identity"
	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

var _ csi.GroupControllerServer = (*Server)(nil)

// GroupControllerGetCapabilities advertises what is built.
func (*Server) GroupControllerGetCapabilities(
	context.Context, *csi.GroupControllerGetCapabilitiesRequest,
) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	return &csi.GroupControllerGetCapabilitiesResponse{
		Capabilities: identity.GroupControllerCapabilities(),
	}, nil
}

// CreateVolumeGroupSnapshot takes snapshots of volumes of one pool, all at one moment. They are
// durable and ready to use when the call returns. A copy that outlives the call is joined by the
// next one (ABORTED until then).
func (s *Server) CreateVolumeGroupSnapshot(
	ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest,
) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	create, in, err := request.ParseGroupSnapshot(req)
	if err != nil {
		return nil, err
	}
	p, err := s.Pools.ByID(in)
	if err != nil {
		return nil, fmt.Errorf("group snapshot %q: %w", req.GetName(), err)
	}
	made, err := p.CreateGroupSnapshot(ctx, create)
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: s.groupMessage(made)}, nil
}

// DeleteVolumeGroupSnapshot deletes a group snapshot and its snapshots, durably, as DeleteSnapshot
// deletes one.
func (s *Server) DeleteVolumeGroupSnapshot(
	ctx context.Context, req *csi.DeleteVolumeGroupSnapshotRequest,
) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	id, err := volume.ParseGroupSnapshotID(req.GetGroupSnapshotId())
	if errors.Is(err, volume.ErrNotFound) {
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("delete group snapshot %s: %w", id, err)
	}
	if err := p.DeleteGroupSnapshot(ctx, id, req.GetSnapshotIds()); err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
}

// GetVolumeGroupSnapshot describes one group snapshot. One with a damaged snapshot is not ready.
func (s *Server) GetVolumeGroupSnapshot(
	_ context.Context, req *csi.GetVolumeGroupSnapshotRequest,
) (*csi.GetVolumeGroupSnapshotResponse, error) {
	id, err := volume.ParseGroupSnapshotID(req.GetGroupSnapshotId())
	if err != nil {
		return nil, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("group snapshot %s: %w", id, err)
	}
	found, err := p.GetGroupSnapshot(id, req.GetSnapshotIds())
	if err != nil {
		return nil, err
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: s.groupMessage(found)}, nil
}

// groupMessage is a group snapshot as CSI has it.
func (s *Server) groupMessage(found volume.GroupSnapshot) *csi.VolumeGroupSnapshot {
	message := &csi.VolumeGroupSnapshot{GroupSnapshotId: found.ID.String(), ReadyToUse: true}
	for _, member := range found.Snapshots {
		message.Snapshots = append(message.Snapshots, s.snapshotMessage(member))
		message.CreationTime = timestamppb.New(member.Created) // the same of all
	}
	return message
}
