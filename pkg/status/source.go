package status

import (
	"context"
	"errors"
)

// Errors of a Source. All others mean that it could not answer.
var (
	// ErrNotFound: there is no such node, pool or volume.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: the query cannot be right.
	ErrInvalid = errors.New("invalid")
)

// Query says which part of a list is wanted. An empty field selects everything.
type Query struct {
	Node, Pool, Namespace, Volume string
	// After is List.Next of the part before.
	After string
	// Limit is 1 to MaxLimit.
	Limit int
}

// Pools is what is known of the pools of a node, or of all nodes. The cost of a call grows with the
// part that it returns, and no call waits long for a disk or a node. Errors: ErrNotFound,
// ErrInvalid for an After that the Source has not given out.
type Pools interface {
	Pools(ctx context.Context, q Query) (List[Pool], error)
	Volumes(ctx context.Context, q Query) (List[Volume], error)
	// Volume has the use of the last day, and the first snapshots.
	Volume(ctx context.Context, id string) (Volume, error)
	Snapshots(ctx context.Context, q Query) (List[Snapshot], error)
	Trash(ctx context.Context, q Query) (List[TrashEntry], error)
	Copies(ctx context.Context, q Query) (List[Copy], error)
}

// Source is where API and pages have their data from.
type Source interface {
	Pools
	Overview(ctx context.Context) (Overview, error)
	// Nodes are in the order of their names.
	Nodes(ctx context.Context, q Query) (List[Node], error)
}
