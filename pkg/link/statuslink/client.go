package statuslink

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	rpcstatus "google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// ErrOld says that the node's driver is of before the Status service.
var ErrOld = errors.New("the node's driver is older than the controller, and does not tell this: " +
	"it will when its image is as new")

// maxNextBytes bounds the next of a node, so that NODE/next is a parameter that status.NewHandler
// takes: the name of a node has at most 253 bytes. The nodes' own have at most 105.
const maxNextBytes = 256

// Client asks the node at the other end of a link. Errors: those of status.Pools; ErrOld; those of
// the connection.
type Client struct {
	node   string
	client linkpb.StatusClient
}

var _ status.Pools = (*Client)(nil)

// NewClient returns a client of the node with that name: it is in all that the client returns,
// whatever the node says. The connection bounds how large an answer may be.
func NewClient(node string, conn grpc.ClientConnInterface) *Client {
	return &Client{node, linkpb.NewStatusClient(conn)}
}

// Pools implements status.Pools.
func (c *Client) Pools(ctx context.Context, q status.Query) (status.List[status.Pool], error) {
	l, err := c.client.ListPoolStatus(ctx, queryTo(q))
	return list(c, q, l, err, (*linkpb.PoolStatusList).GetItems, poolFrom,
		func(p *status.Pool) { p.Node = c.node })
}

// Volumes implements status.Pools.
func (c *Client) Volumes(ctx context.Context, q status.Query) (status.List[status.Volume], error) {
	l, err := c.client.ListVolumeStatus(ctx, queryTo(q))
	return list(c, q, l, err, (*linkpb.VolumeStatusList).GetItems, volumeFrom, c.ownVolume)
}

// Volume implements status.Pools.
func (c *Client) Volume(ctx context.Context, id string) (status.Volume, error) {
	m, err := c.client.GetVolumeStatus(ctx, &linkpb.GetVolumeStatusRequest{Id: id})
	if err != nil {
		return status.Volume{}, fromRPC(err)
	}
	v := volumeFrom(m)
	c.ownVolume(&v)
	return v, nil
}

// Snapshots implements status.Pools.
func (c *Client) Snapshots(
	ctx context.Context, q status.Query,
) (status.List[status.Snapshot], error) {
	l, err := c.client.ListSnapshotStatus(ctx, queryTo(q))
	return list(c, q, l, err, (*linkpb.SnapshotStatusList).GetItems, snapshotFrom,
		func(s *status.Snapshot) { s.Node = c.node })
}

// Trash implements status.Pools.
func (c *Client) Trash(
	ctx context.Context, q status.Query,
) (status.List[status.TrashEntry], error) {
	l, err := c.client.ListTrash(ctx, queryTo(q))
	return list(c, q, l, err, (*linkpb.TrashList).GetItems, trashFrom,
		func(e *status.TrashEntry) { e.Node = c.node })
}

// Copies implements status.Pools.
func (c *Client) Copies(ctx context.Context, q status.Query) (status.List[status.Copy], error) {
	l, err := c.client.ListCopies(ctx, queryTo(q))
	return list(c, q, l, err, (*linkpb.CopyList).GetItems, copyFrom,
		func(e *status.Copy) { e.Node = c.node })
}

func (c *Client) ownVolume(v *status.Volume) {
	v.Node = c.node
	for i := range v.Snapshots {
		v.Snapshots[i].Node = c.node
	}
}

// part is what all lists of the link have.
type part interface {
	GetNext() string
	GetMissing() []*linkpb.MissingStatus
}

// list converts a list of a node, of which it takes no more than was asked for.
func list[L part, From, To any](
	c *Client, q status.Query, l L, err error, items func(L) []From, convert func(From) To,
	own func(*To),
) (status.List[To], error) {
	if err != nil {
		return status.List[To]{}, fromRPC(err)
	}
	if len(l.GetNext()) > maxNextBytes {
		return status.List[To]{}, fmt.Errorf("the next of the list has %d bytes, at most %d are allowed",
			len(l.GetNext()), maxNextBytes)
	}
	all := items(l)
	out := status.List[To]{Next: l.GetNext()}
	for _, item := range all[:min(len(all), q.Limit)] {
		to := convert(item)
		own(&to)
		out.Items = append(out.Items, to)
	}
	for _, m := range l.GetMissing()[:min(len(l.GetMissing()), status.DefaultLimit)] {
		out.Missing = append(out.Missing,
			status.Missing{Node: c.node, Pool: m.GetPool(), Reason: m.GetReason()})
	}
	return out, nil
}

func fromRPC(err error) error {
	s := rpcstatus.Convert(err)
	switch s.Code() { //nolint:exhaustive // the others say what they mean in their message
	case codes.NotFound:
		return fmt.Errorf("%w: %s", status.ErrNotFound, s.Message())
	case codes.InvalidArgument:
		return fmt.Errorf("%w: %s", status.ErrInvalid, s.Message())
	case codes.Unimplemented:
		return ErrOld
	}
	return errors.New(s.Message())
}

func queryTo(q status.Query) *linkpb.StatusQuery {
	return &linkpb.StatusQuery{
		Pool: q.Pool, Namespace: q.Namespace, Volume: q.Volume, After: q.After,
		Limit: int32(q.Limit), //nolint:gosec // at most status.MaxLimit
	}
}
