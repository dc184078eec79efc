package router

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// maxPage bounds a page, as on a node.
	maxPage = 1000
	// maxBatch is how many pools are asked at a time, as long as they have few entries.
	maxBatch = 32
)

// lister lists what the pools of all nodes have, in the order of the IDs: pool after pool,
// whichever nodes have them. A token is the last ID of the page before, as on a node, so pages stay
// right while volumes, nodes and pools come and go.
type lister[E any] struct {
	// pools are those that are listed after a token.
	pools func(token string) ([]listed, error)
	// fetch asks a node for a page after a token.
	fetch func(ctx context.Context, n *node, token string, limit int32) ([]E, string, error)
	idOf  func(E) string
	// infix stands between a pool's ID and a directory.
	infix string
}

// page is one page after a token, and the token of the next one.
func (l lister[E]) page(
	ctx context.Context, token string, maxEntries int32,
) (page []E, next string, err error) {
	limit := maxPage
	if maxEntries > 0 {
		limit = min(int(maxEntries), maxPage)
	}
	pools, err := l.pools(token)
	if err != nil {
		return nil, "", err
	}
	for len(pools) > 0 && len(page) <= limit { // one more says whether there is a next page
		batch := pools[:batchOf(pools, limit+1-len(page))]
		pools = pools[len(batch):]
		entries, err := l.batch(ctx, batch, token, limit+1-len(page))
		if err != nil {
			return nil, "", err
		}
		page = append(page, entries...)
	}
	if len(page) > limit {
		page = page[:limit]
		next = l.idOf(page[limit-1])
	}
	return page, next, nil
}

// batch asks some pools at the same time.
func (l lister[E]) batch(
	ctx context.Context, pools []listed, token string, limit int,
) ([]E, error) {
	group, ctx := errgroup.WithContext(ctx)
	found := make([][]E, len(pools))
	for i, p := range pools {
		group.Go(func() (err error) {
			found[i], err = l.pool(ctx, p, token, limit)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(found...), nil
}

// pool lists one pool. Its node goes on with its next pool after it, and that is left out here.
func (l lister[E]) pool(
	ctx context.Context, p listed, token string, limit int,
) (entries []E, err error) {
	if poolIn(token) != p.id {
		token = l.before(p.id)
	}
	for len(entries) < limit {
		got, next, err := l.fetch(ctx, p.node, token, int32(limit-len(entries))) //nolint:gosec // ≤ 1001
		if err != nil {
			return nil, err
		}
		for _, e := range got {
			switch id := poolIn(l.idOf(e)); {
			case id > p.id:
				return entries, nil
			case id == p.id:
				entries = append(entries, e)
			}
		}
		if next == "" {
			return entries, nil
		}
		if next <= token {
			return nil, fmt.Errorf("node %s lists %q after %s: its pages never end", p.node.name,
				clip(next), token)
		}
		token = next
	}
	return entries[:limit], nil
}

// before is a token of which the pool's first entry is the next; empty for the first of all pools.
func (l lister[E]) before(id volume.PoolID) string {
	n, err := strconv.ParseUint(string(id), 16, 64)
	if err != nil || n == 0 {
		return ""
	}
	return fmt.Sprintf("%012x-%sz", n-1, l.infix)
}

// poolIn is the pool of an ID that has been parsed, or comes from a node.
func poolIn(id string) volume.PoolID {
	pool, err := volume.ParsePoolID(id[:min(len(id), 12)])
	if err != nil {
		return ""
	}
	return pool
}

var errNodesNotRead = fmt.Errorf("%w: the controller has not read yet which nodes the cluster has: "+
	"retry", volume.ErrNotLinked)

// listed is a pool that is to be listed.
type listed struct {
	id      volume.PoolID
	node    *node
	entries int64 // as the node has pushed them
}

// batchOf is how many pools are asked at a time for so many entries: more than one only if the
// first are likely to have too few.
func batchOf(pools []listed, limit int) (n int) {
	for sum := int64(0); n < min(len(pools), maxBatch) && sum < int64(limit); n++ {
		sum += pools[n].entries
	}
	return n
}

// poolsFor are the pools in which a list goes on after a token. A list that lacks what a node has
// is not the list. Errors: ErrNotLinked, ErrUnavailable.
func (r *Router) poolsFor(token string) ([]listed, error) {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	if r.fleet.read == objectsAwaited {
		return nil, errNodesNotRead
	}
	entries := map[volume.PoolID]int64{}
	for n := range r.fleet.known() {
		if err := r.isComplete(n); err != nil {
			return nil, err
		}
		for _, p := range n.pools {
			if !p.refused {
				entries[p.id] = p.entries
			}
		}
	}
	var pools []listed
	for _, id := range slices.Sorted(maps.Keys(r.fleet.owners)) {
		if n := r.fleet.owners[id].node; id >= poolIn(token) && r.fleet.knows(n) {
			pools = append(pools, listed{id, n, entries[id]})
		}
	}
	return pools, nil
}

// isComplete says whether a node can list all that it has. The fleet's lock is held.
func (r *Router) isComplete(n *node) error {
	switch {
	case n.link == nil:
		return r.notLinked(n)
	case !n.pushed:
		return fmt.Errorf("%w: %s has not said yet which pools it has: retry", volume.ErrNotLinked,
			n.name)
	}
	for _, p := range n.pools {
		if p.notReady != "" && !p.optional {
			return fmt.Errorf("%w: pool %s of node %s cannot be used (%s), so no list would be complete",
				volume.ErrUnavailable, p.name, n.name, p.notReady)
		}
	}
	return nil
}

func checkMaxEntries(n int32) error {
	if n < 0 {
		return fmt.Errorf("%w: max_entries is %d: want 0 for as many as possible, or more",
			volume.ErrInvalid, n)
	}
	return nil
}

// ListVolumes lists the volumes of all nodes. Errors: ErrNotLinked, naming a node whose volumes
// would be missing.
func (r *Router) ListVolumes(
	ctx context.Context, req *csi.ListVolumesRequest,
) (*csi.ListVolumesResponse, error) {
	if err := checkMaxEntries(req.GetMaxEntries()); err != nil {
		return nil, err
	}
	if token := req.GetStartingToken(); token != "" && !volume.IsID(token) {
		return nil, fmt.Errorf("%w: %q is no token of this driver", volume.ErrBadToken, token)
	}
	l := lister[*csi.ListVolumesResponse_Entry]{
		pools: r.poolsFor,
		fetch: r.fetchVolumes,
		idOf:  func(e *csi.ListVolumesResponse_Entry) string { return e.GetVolume().GetVolumeId() },
	}
	entries, next, err := l.page(ctx, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	return &csi.ListVolumesResponse{Entries: entries, NextToken: next}, nil
}

func (r *Router) fetchVolumes(
	ctx context.Context, n *node, token string, limit int32,
) ([]*csi.ListVolumesResponse_Entry, string, error) {
	resp, err := call(ctx, r, n, "ListVolumes", csi.ControllerClient.ListVolumes,
		&csi.ListVolumesRequest{StartingToken: token, MaxEntries: limit})
	return resp.GetEntries(), resp.GetNextToken(), err
}

// ListSnapshots lists the snapshots of all nodes. One snapshot, or those of one volume, are asked
// for at the node that has them.
func (r *Router) ListSnapshots(
	ctx context.Context, req *csi.ListSnapshotsRequest,
) (*csi.ListSnapshotsResponse, error) {
	if err := checkMaxEntries(req.GetMaxEntries()); err != nil {
		return nil, err
	}
	if token := req.GetStartingToken(); token != "" {
		if _, err := volume.ParseSnapshotID(token); err != nil {
			return nil, fmt.Errorf("%w: %q is no token of this driver", volume.ErrBadToken, token)
		}
	}
	if req.GetSnapshotId() != "" || req.GetSourceVolumeId() != "" {
		return r.listOnNode(ctx, req)
	}
	l := lister[*csi.ListSnapshotsResponse_Entry]{
		pools: r.poolsFor,
		fetch: r.fetchSnapshots,
		idOf: func(e *csi.ListSnapshotsResponse_Entry) string {
			return e.GetSnapshot().GetSnapshotId()
		},
		infix: "s-",
	}
	entries, next, err := l.page(ctx, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	return &csi.ListSnapshotsResponse{Entries: entries, NextToken: next}, nil
}

func (r *Router) fetchSnapshots(
	ctx context.Context, n *node, token string, limit int32,
) ([]*csi.ListSnapshotsResponse_Entry, string, error) {
	resp, err := call(ctx, r, n, "ListSnapshots", csi.ControllerClient.ListSnapshots,
		&csi.ListSnapshotsRequest{StartingToken: token, MaxEntries: limit})
	return resp.GetEntries(), resp.GetNextToken(), err
}

// listOnNode lists one snapshot, or those of one volume. Of what is no ID there are none (CSI spec,
// ListSnapshots).
func (r *Router) listOnNode(
	ctx context.Context, req *csi.ListSnapshotsRequest,
) (*csi.ListSnapshotsResponse, error) {
	pool, ok := poolOfList(req)
	if !ok {
		return &csi.ListSnapshotsResponse{}, nil
	}
	n, err := r.ownerOf(pool)
	if err != nil {
		return nil, err
	}
	return call(ctx, r, n, "ListSnapshots", csi.ControllerClient.ListSnapshots, req)
}

// poolOfList is the pool of the snapshot, or of the volume, that a list is restricted to.
func poolOfList(req *csi.ListSnapshotsRequest) (volume.PoolID, bool) {
	if req.GetSnapshotId() != "" {
		id, err := volume.ParseSnapshotID(req.GetSnapshotId())
		return id.Pool(), err == nil
	}
	id, err := volume.ParseID(req.GetSourceVolumeId())
	return id.Pool(), err == nil
}
