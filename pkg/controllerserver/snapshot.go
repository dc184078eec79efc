package controllerserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// CreateSnapshot takes a snapshot in the pool of its volume. It is durable and ready to use when
// the call returns: what is copied file by file has no moment before that at which the source could
// go on without changing the snapshot, so there is nothing to say "ready_to_use: false" about. A
// copy that outlives the call is joined by the next one (ABORTED until then).
func (s *Server) CreateSnapshot(
	ctx context.Context, req *csi.CreateSnapshotRequest,
) (*csi.CreateSnapshotResponse, error) {
	create, err := request.ParseSnapshot(req)
	if err != nil {
		return nil, err
	}
	if !s.reachable(req.GetAccessibilityRequirements()) {
		return nil, fmt.Errorf(
			"%w: a snapshot can be used only on the node of its volume, %s, which is not in the requested topology",
			volume.ErrElsewhere,
			s.place(),
		)
	}
	p, err := s.Pools.ByID(create.Source.Pool())
	if err != nil {
		return nil, fmt.Errorf("snapshot of volume %s: %w", create.Source, err)
	}
	made, err := p.CreateSnapshot(ctx, create)
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: s.snapshotMessage(made)}, nil
}

// DeleteSnapshot deletes a snapshot of this node's pools, durably; one that is gone is no error,
// one of another node's pool is. What no driver of this kind has ever called a snapshot is none, so
// it is gone.
func (s *Server) DeleteSnapshot(
	ctx context.Context, req *csi.DeleteSnapshotRequest,
) (*csi.DeleteSnapshotResponse, error) {
	id, err := volume.ParseSnapshotID(req.GetSnapshotId())
	if errors.Is(err, volume.ErrNotFound) {
		return &csi.DeleteSnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	return &csi.DeleteSnapshotResponse{}, p.DeleteSnapshot(ctx, id)
}

// GetSnapshot describes one snapshot.
func (s *Server) GetSnapshot(
	_ context.Context, req *csi.GetSnapshotRequest,
) (*csi.GetSnapshotResponse, error) {
	id, err := volume.ParseSnapshotID(req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	found, err := p.GetSnapshot(id)
	if err != nil {
		return nil, err
	}
	return &csi.GetSnapshotResponse{
		Snapshot: s.snapshotMessage(found),
	}, nil
}

// ListSnapshots lists snapshots in the order of their IDs, all of them, those of a volume, or one.
// A token is the ID of the last snapshot of the page before, as in ListVolumes.
func (s *Server) ListSnapshots(
	_ context.Context, req *csi.ListSnapshotsRequest,
) (*csi.ListSnapshotsResponse, error) {
	if req.GetMaxEntries() < 0 {
		return nil, fmt.Errorf("%w: max_entries is %d: want 0 for as many as possible, or more",
			volume.ErrInvalid, req.GetMaxEntries())
	}
	var after volume.SnapshotID
	if token := req.GetStartingToken(); token != "" {
		var err error
		if after, err = volume.ParseSnapshotID(token); err != nil {
			return nil, fmt.Errorf("%w: %q is no token of this driver", volume.ErrBadToken, token)
		}
	}
	limit := maxPage
	if n := int(req.GetMaxEntries()); n > 0 {
		limit = min(n, maxPage)
	}
	page, err := s.snapshotPage(req, after, limit+1) // one more says whether there is a next page
	if err != nil {
		return nil, err
	}
	resp := &csi.ListSnapshotsResponse{}
	if len(page) > limit {
		page = page[:limit]
		resp.NextToken = page[limit-1].ID.String()
	}
	for _, e := range page {
		resp.Entries = append(resp.Entries,
			&csi.ListSnapshotsResponse_Entry{Snapshot: s.snapshotMessage(e)})
	}
	return resp, nil
}

func (s *Server) snapshotPage(
	req *csi.ListSnapshotsRequest, after volume.SnapshotID, limit int,
) ([]volume.Snapshot, error) {
	switch {
	case req.GetSnapshotId() != "":
		return s.oneSnapshot(req.GetSnapshotId(), req.GetSourceVolumeId(), after)
	case req.GetSourceVolumeId() != "":
		return s.snapshotsOf(req.GetSourceVolumeId(), after, limit)
	}
	if err := s.Pools.Complete(); err != nil { // a list that lacks snapshots is not the list
		return nil, err
	}
	var page []volume.Snapshot
	for _, p := range s.Pools.Open() {
		if p.ID() >= after.Pool() && len(page) < limit {
			page = append(page, p.ListSnapshots(dirIn(p.ID(), after), limit-len(page))...)
		}
	}
	return page, nil
}

// dirIn is where the list of a pool goes on: at its beginning if the token is of the pool before.
func dirIn(id volume.PoolID, after volume.SnapshotID) string {
	if id == after.Pool() {
		return after.Dir()
	}
	return ""
}

// oneSnapshot is a list of the snapshot of that ID, or of none: also for what is no ID (CSI spec,
// ListSnapshots).
func (s *Server) oneSnapshot(
	rawID, rawSource string, after volume.SnapshotID,
) ([]volume.Snapshot, error) {
	id, err := volume.ParseSnapshotID(rawID)
	if err != nil {
		return nil, nil //nolint:nilerr // there is none of that ID
	}
	p, err := s.Pools.ByID(id.Pool())
	if errors.Is(err, volume.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found, err := p.GetSnapshot(id)
	if errors.Is(err, volume.ErrNotFound) || id.Compare(after) <= 0 ||
		rawSource != "" && rawSource != found.Source.String() {
		return nil, nil
	}
	return []volume.Snapshot{found}, nil
}

// snapshotsOf lists the snapshots of a volume, which are in its pool.
func (s *Server) snapshotsOf(
	rawSource string, after volume.SnapshotID, limit int,
) ([]volume.Snapshot, error) {
	source, err := volume.ParseID(rawSource)
	if err != nil {
		return nil, nil //nolint:nilerr // there are none of it
	}
	p, err := s.Pools.ByID(source.Pool())
	if errors.Is(err, volume.ErrNotFound) {
		return nil, nil
	}
	if err != nil || p.ID() < after.Pool() {
		return nil, err
	}
	return p.ListSnapshotsOf(source, dirIn(p.ID(), after), limit), nil
}

// snapshotMessage is a snapshot as CSI has it. Its size is what a volume made from it has at least
// (CSI spec, Snapshot.size_bytes). A damaged one is not ready, and does not vanish from lists,
// which would look as if it had been deleted.
func (s *Server) snapshotMessage(found volume.Snapshot) *csi.Snapshot {
	var group string
	if found.Group != (volume.SnapshotGroup{}) {
		group = volume.NewGroupSnapshotID(found.ID.Pool(), found.Group.Name).String()
	}
	return &csi.Snapshot{
		GroupSnapshotId:    group,
		SnapshotId:         found.ID.String(),
		SourceVolumeId:     found.Source.String(),
		SizeBytes:          found.RestoreBytes,
		CreationTime:       timestamppb.New(found.Created),
		ReadyToUse:         !found.IsDamaged(),
		AccessibleTopology: []*csi.Topology{{Segments: s.Topology}},
	}
}
