// Package statuslink carries what a node tells people over the link: a status.Pools on the node is
// a status.Pools in the controller.
package statuslink

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	rpcstatus "google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// Server serves the pools of a node.
type Server struct {
	linkpb.UnimplementedStatusServer

	Pools status.Pools
}

var _ linkpb.StatusServer = (*Server)(nil)

// ListPoolStatus implements linkpb.StatusServer.
func (s *Server) ListPoolStatus(
	ctx context.Context, q *linkpb.StatusQuery,
) (*linkpb.PoolStatusList, error) {
	list, err := s.Pools.Pools(ctx, queryFrom(q))
	if err != nil {
		return nil, toRPC(err)
	}
	return &linkpb.PoolStatusList{
		Items: mapped(list.Items, poolTo), Next: list.Next, Missing: mapped(list.Missing, missingTo),
	}, nil
}

// ListVolumeStatus implements linkpb.StatusServer.
func (s *Server) ListVolumeStatus(
	ctx context.Context, q *linkpb.StatusQuery,
) (*linkpb.VolumeStatusList, error) {
	list, err := s.Pools.Volumes(ctx, queryFrom(q))
	if err != nil {
		return nil, toRPC(err)
	}
	return &linkpb.VolumeStatusList{
		Items: mapped(list.Items, volumeTo), Next: list.Next, Missing: mapped(list.Missing, missingTo),
	}, nil
}

// GetVolumeStatus implements linkpb.StatusServer.
func (s *Server) GetVolumeStatus(
	ctx context.Context, q *linkpb.GetVolumeStatusRequest,
) (*linkpb.VolumeStatus, error) {
	v, err := s.Pools.Volume(ctx, q.GetId())
	if err != nil {
		return nil, toRPC(err)
	}
	return volumeTo(v), nil
}

// ListSnapshotStatus implements linkpb.StatusServer.
func (s *Server) ListSnapshotStatus(
	ctx context.Context, q *linkpb.StatusQuery,
) (*linkpb.SnapshotStatusList, error) {
	list, err := s.Pools.Snapshots(ctx, queryFrom(q))
	if err != nil {
		return nil, toRPC(err)
	}
	return &linkpb.SnapshotStatusList{
		Items: mapped(list.Items, snapshotTo), Next: list.Next, Missing: mapped(list.Missing, missingTo),
	}, nil
}

// ListTrash implements linkpb.StatusServer.
func (s *Server) ListTrash(
	ctx context.Context, q *linkpb.StatusQuery,
) (*linkpb.TrashList, error) {
	list, err := s.Pools.Trash(ctx, queryFrom(q))
	if err != nil {
		return nil, toRPC(err)
	}
	return &linkpb.TrashList{
		Items: mapped(list.Items, trashTo), Next: list.Next, Missing: mapped(list.Missing, missingTo),
	}, nil
}

// ListCopies implements linkpb.StatusServer.
func (s *Server) ListCopies(
	ctx context.Context, q *linkpb.StatusQuery,
) (*linkpb.CopyList, error) {
	list, err := s.Pools.Copies(ctx, queryFrom(q))
	if err != nil {
		return nil, toRPC(err)
	}
	return &linkpb.CopyList{
		Items: mapped(list.Items, copyTo), Next: list.Next, Missing: mapped(list.Missing, missingTo),
	}, nil
}

func toRPC(err error) error {
	switch {
	case errors.Is(err, status.ErrNotFound):
		return rpcstatus.Error(codes.NotFound, err.Error())
	case errors.Is(err, status.ErrInvalid):
		return rpcstatus.Error(codes.InvalidArgument, err.Error())
	}
	return err
}

// queryFrom bounds the limit, which is the caller's.
func queryFrom(q *linkpb.StatusQuery) status.Query {
	return status.Query{
		Pool: q.GetPool(), Namespace: q.GetNamespace(), Volume: q.GetVolume(), After: q.GetAfter(),
		Limit: max(1, min(int(q.GetLimit()), status.MaxLimit)),
	}
}

func mapped[From, To any](all []From, convert func(From) To) []To {
	var converted []To
	for _, one := range all {
		converted = append(converted, convert(one))
	}
	return converted
}
