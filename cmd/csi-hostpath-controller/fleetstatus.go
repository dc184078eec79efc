package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/lifecycle"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/statuslink"
	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// nodePatience is how long a request waits for a node.
	nodePatience = 4 * time.Second
	// maxAsked is how many nodes all requests together ask at a time, so that the links stay free for
	// the calls of sidecars.
	maxAsked = 32
	// maxWalked is how many nodes one part of a list may be of, and askedAtOnce how many of them are
	// asked at a time.
	maxWalked   = status.MaxLimit
	askedAtOnce = 16
)

// fleetStatus tells people the state of all nodes: what they have pushed, and what they answer.
type fleetStatus struct {
	driverName string
	details    func() []router.NodeDetails
	// object is what the API server has of a volume; see lifecycle.Controller.VolumeObject.
	object func(id string) (o lifecycle.VolumeObject, exists, known bool)
	asked  chan struct{} // has an element for each node that is asked
}

var _ status.Source = (*fleetStatus)(nil)

func newFleetStatus(c *controller) *fleetStatus {
	return &fleetStatus{
		driverName: c.options.driverName, details: c.router.Details, object: c.leader.object,
		asked: make(chan struct{}, maxAsked),
	}
}

// Overview implements status.Source.
func (f *fleetStatus) Overview(context.Context) (status.Overview, error) {
	o := status.Overview{
		Deployment: status.Central, DriverName: f.driverName, Version: version.Version,
		Time: time.Now().UTC(),
	}
	for _, n := range f.details() {
		o.Nodes++
		if !n.Linked {
			continue
		}
		o.NodesLinked++
		for _, p := range pushedPools(n, status.Query{}, o.Time) {
			o.Add(p)
		}
	}
	return o, nil
}

// Nodes implements status.Source. No node is asked.
func (f *fleetStatus) Nodes(
	_ context.Context, q status.Query,
) (list status.List[status.Node], err error) {
	now := time.Now().UTC()
	for _, n := range f.details() {
		if q.Node != "" && n.Name != q.Node || n.Name <= q.After {
			continue
		}
		if len(list.Items) == q.Limit {
			list.Next = list.Items[q.Limit-1].Name
			return list, nil
		}
		list.Items = append(list.Items, status.Node{
			Name: n.Name, Linked: n.Linked, Since: n.Since.UTC().Truncate(time.Second), Why: n.Why,
			DriverVersion: n.DriverVersion, Pools: pushedPools(n, q, asOf(n, now)),
		})
	}
	return list, nil
}

// asOf is the time of what a node has pushed: what a linked node has pushed holds now.
func asOf(n router.NodeDetails, now time.Time) time.Time {
	if n.Linked {
		return now.Truncate(time.Second)
	}
	return n.Since.UTC().Truncate(time.Second)
}

// pushedPools are the pools of a node as it has pushed them.
func pushedPools(n router.NodeDetails, q status.Query, at time.Time) (pools []status.Pool) {
	for _, p := range n.Pools {
		if q.Pool != "" && p.Name != q.Pool {
			continue
		}
		pools = append(pools, status.Pool{
			Node: n.Name, Name: p.Name, ID: string(p.ID), IsDefault: p.IsDefault, Optional: p.Optional,
			Ready: p.NotReady == "", Reason: p.NotReady, EnforcesSizes: p.EnforcesSizes,
			SizeBytes: p.SizeBytes, AvailableBytes: p.AvailableBytes, Volumes: p.Volumes,
			Snapshots: p.Snapshots, UnhealthyVolumes: p.UnhealthyVolumes, AsOf: &at,
		})
	}
	return pools
}

// Pools implements status.Pools. The pools of a node that does not answer are as it has pushed
// them.
func (f *fleetStatus) Pools(
	ctx context.Context, q status.Query,
) (status.List[status.Pool], error) {
	now := time.Now().UTC()
	return collect(ctx, f, q, question[status.Pool]{
		ask: status.Pools.Pools,
		instead: func(n router.NodeDetails) []status.Pool {
			return pushedPools(n, q, asOf(n, now))
		},
		expect: unknown,
		own:    ownPool,
	})
}

// Volumes implements status.Pools.
func (f *fleetStatus) Volumes(
	ctx context.Context, q status.Query,
) (status.List[status.Volume], error) {
	l, err := collect(ctx, f, q, question[status.Volume]{
		ask:    status.Pools.Volumes,
		expect: func(p router.PushedPool) int64 { return p.Volumes },
		own:    func(n router.NodeDetails, v *status.Volume) bool { return hasPoolOf(n, v.ID) },
	})
	for i := range l.Items {
		f.addObject(&l.Items[i])
	}
	return l, err
}

// addObject adds what the API server has of a volume, if this replica is the leader.
func (f *fleetStatus) addObject(v *status.Volume) {
	if v.Inline || v.Damaged {
		return
	}
	o, exists, known := f.object(v.ID)
	if !known {
		return
	}
	v.PersistentVolume = &status.PersistentVolume{Exists: exists, Released: o.Released}
	if o.Claim != "" {
		v.Claim = &status.ObjectName{Namespace: o.ClaimNamespace, Name: o.Claim}
	}
}

// Volume implements status.Pools.
func (f *fleetStatus) Volume(ctx context.Context, text string) (status.Volume, error) {
	id, err := volume.ParseID(text)
	if err != nil {
		return status.Volume{}, fmt.Errorf("%w: %q is not the ID of a volume", status.ErrNotFound, text)
	}
	n, ok := f.nodeOf(id.Pool())
	if !ok {
		return status.Volume{}, fmt.Errorf("%w: no node has told of pool %s", status.ErrNotFound,
			id.Pool())
	}
	v, err := askNode(ctx, f, n, func(ctx context.Context, p status.Pools) (status.Volume, error) {
		return p.Volume(ctx, text)
	})
	if err == nil && v.ID != text {
		err = errors.New("it has answered with another volume")
	}
	if err != nil {
		return status.Volume{}, fmt.Errorf("node %s: %w", n.Name, err)
	}
	v.Snapshots = slices.DeleteFunc(v.Snapshots, func(s status.Snapshot) bool {
		return !ownSnapshot(n, &s)
	})
	f.addObject(&v)
	return v, nil
}

// nodeOf is the node that has a pool.
func (f *fleetStatus) nodeOf(id volume.PoolID) (router.NodeDetails, bool) {
	for _, n := range f.details() {
		if hasPool(n, id) {
			return n, true
		}
	}
	return router.NodeDetails{}, false
}

// hasPool says whether a node has told of a pool on its link that no other node has.
func hasPool(n router.NodeDetails, id volume.PoolID) bool {
	return slices.ContainsFunc(n.Pools, func(p router.PushedPool) bool {
		return p.ID == id && !p.Foreign
	})
}

// hasPoolOf says the same of the pool in the ID of a volume, of a snapshot or of a group snapshot.
func hasPoolOf(n router.NodeDetails, id string) bool {
	pool, _, _ := strings.Cut(id, "-")
	return pool != "" && hasPool(n, volume.PoolID(pool))
}

func ownSnapshot(n router.NodeDetails, s *status.Snapshot) bool { return hasPoolOf(n, s.ID) }

// ownPool also says of a pool why it is not used: a node does not know that another one has it.
func ownPool(n router.NodeDetails, p *status.Pool) bool {
	if p.ID == "" { // it has not been open
		return true
	}
	i := slices.IndexFunc(n.Pools, func(pushed router.PushedPool) bool {
		return string(pushed.ID) == p.ID
	})
	if i < 0 {
		return false
	}
	if n.Pools[i].Foreign {
		p.Ready, p.Reason = false, n.Pools[i].NotReady
	}
	return true
}

// Snapshots implements status.Pools.
func (f *fleetStatus) Snapshots(
	ctx context.Context, q status.Query,
) (status.List[status.Snapshot], error) {
	return collect(ctx, f, q, question[status.Snapshot]{
		ask:    status.Pools.Snapshots,
		expect: func(p router.PushedPool) int64 { return p.Snapshots },
		own:    ownSnapshot,
	})
}

// unknown is for what nodes do not push: each pool is asked, and most often has few.
func unknown(router.PushedPool) int64 { return 1 }

// Trash implements status.Pools.
func (f *fleetStatus) Trash(
	ctx context.Context, q status.Query,
) (status.List[status.TrashEntry], error) {
	return collect(ctx, f, q, question[status.TrashEntry]{
		ask: status.Pools.Trash, expect: unknown,
		// What was never finished has no ID.
		own: func(n router.NodeDetails, e *status.TrashEntry) bool {
			return e.ID == "" || hasPoolOf(n, e.ID)
		},
	})
}

// Copies implements status.Pools.
func (f *fleetStatus) Copies(
	ctx context.Context, q status.Query,
) (status.List[status.Copy], error) {
	return collect(ctx, f, q, question[status.Copy]{
		ask: status.Pools.Copies, expect: unknown,
		own: func(n router.NodeDetails, c *status.Copy) bool {
			return hasPoolOf(n, c.What[strings.LastIndexByte(c.What, ' ')+1:])
		},
	})
}

// question is what each node is asked for a list.
type question[T any] struct {
	ask func(status.Pools, context.Context, status.Query) (status.List[T], error)
	// expect is about how many items a pool has. Nodes without any are not asked.
	expect func(router.PushedPool) int64
	// instead are the items of a node that does not answer. nil: there are none.
	instead func(router.NodeDetails) []T
	// own says whether a node may speak for an item: no node speaks for what another one has.
	own func(router.NodeDetails, *T) bool
}

// collect makes a part of a list that goes from node to node, in the order of their names. What is
// after begins with the name of a node: "NAME/after", with the after of that node.
//
//nolint:gocognit // one walk, whose parts share where it stands
func collect[T any](
	ctx context.Context, f *fleetStatus, q status.Query, ask question[T],
) (list status.List[T], err error) {
	nodes := f.selectNodes(q, ask.expect)
	walked := 0
	for len(nodes) > 0 {
		room := min(maxWalked-walked, status.DefaultLimit-len(list.Missing))
		if room <= 0 || ctx.Err() != nil && walked > 0 {
			list.Next = nodes[0].Name + "/"
			return list, nil
		}
		batch := nodes[:min(room, batchLen(nodes, q.Limit-len(list.Items), ask.expect))]
		for i, part := range askAll(ctx, f, batch, q, ask) {
			start := startOf(q, batch[i].Name)
			if errors.Is(part.err, status.ErrInvalid) && start != "" { // it is what the caller gave
				return list, part.err
			}
			if part.err != nil {
				part.list = withoutAnswer(batch[i], part.err, ask)
			}
			if len(list.Items)+len(part.list.Items) > q.Limit {
				if len(list.Items) > 0 { // the next part asks this node again
					list.Next = batch[i].Name + "/" + start
					return list, nil
				}
				part.list.Items = part.list.Items[:q.Limit]
			}
			list.Missing = append(list.Missing, part.list.Missing...)
			list.Items = append(list.Items, part.list.Items...)
			if part.list.Next != "" {
				list.Next = batch[i].Name + "/" + part.list.Next
				return list, nil
			}
		}
		walked += len(batch)
		nodes = nodes[len(batch):]
	}
	return list, nil
}

// withoutAnswer is the part of a node that could not be asked.
func withoutAnswer[T any](
	n router.NodeDetails, err error, ask question[T],
) (list status.List[T]) {
	if ask.instead != nil {
		list.Items = ask.instead(n)
	}
	reason := err.Error()
	if !n.Linked && n.Why != "" {
		reason += ": " + n.Why
	}
	list.Missing = []status.Missing{{Node: n.Name, Reason: reason}}
	return list
}

// startOf is the after with which a node was asked.
func startOf(q status.Query, node string) string {
	if name, after, ok := strings.Cut(q.After, "/"); ok && name == node {
		return after
	}
	return ""
}

// selectNodes are the nodes that may have items of this part of the list, in order.
func (f *fleetStatus) selectNodes(
	q status.Query, expect func(router.PushedPool) int64,
) (nodes []router.NodeDetails) {
	from, _, _ := strings.Cut(q.After, "/")
	for _, n := range f.details() {
		if n.Name < from || q.Node != "" && n.Name != q.Node {
			continue
		}
		if !n.Linked || expected(n, q.Pool, expect) > 0 || !n.Pushed {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func expected(n router.NodeDetails, pool string, expect func(router.PushedPool) int64) (sum int64) {
	for _, p := range n.Pools {
		switch {
		case pool != "" && p.Name != pool:
		case p.NotReady != "":
			sum += max(1, expect(p)) // it is asked for the reason
		default:
			sum += expect(p)
		}
	}
	return sum
}

// batchLen is how many of the nodes are asked at once: about as many as have what is still wanted.
func batchLen(
	nodes []router.NodeDetails, wanted int, expect func(router.PushedPool) int64,
) (length int) {
	var sum int64
	for length < min(len(nodes), askedAtOnce) && (length == 0 || sum < int64(wanted)) {
		sum += expected(nodes[length], "", expect)
		length++
	}
	return length
}

type answered[T any] struct {
	list status.List[T]
	err  error
}

// askAll asks nodes at the same time. The first one may have been asked for the part before.
func askAll[T any](
	ctx context.Context, f *fleetStatus, nodes []router.NodeDetails, q status.Query, ask question[T],
) []answered[T] {
	parts := make([]answered[T], len(nodes))
	var asked sync.WaitGroup
	for i, n := range nodes {
		own := q
		own.Node, own.After = "", startOf(q, n.Name)
		asked.Go(func() {
			parts[i].list, parts[i].err = askNode(ctx, f, n,
				func(ctx context.Context, p status.Pools) (status.List[T], error) {
					return ask.ask(p, ctx, own)
				})
			parts[i].list = ownItems(n, parts[i].list, ask)
		})
	}
	asked.Wait()
	return parts
}

// ownItems drops the items that a node must not speak for, and says so.
func ownItems[T any](
	n router.NodeDetails, list status.List[T], ask question[T],
) status.List[T] {
	told := list.Items
	list.Items = nil
	for i := range told {
		if ask.own(n, &told[i]) {
			list.Items = append(list.Items, told[i])
		}
	}
	if dropped := len(told) - len(list.Items); dropped > 0 {
		list.Missing = append(list.Missing, status.Missing{Node: n.Name, Reason: fmt.Sprintf(
			"%d items are of pools that the node has not told of, or that another node has", dropped)})
	}
	return list
}

var errNotLinked = errors.New("it is not linked")

// askNode asks a node on its link. Errors: those of statuslink.Client, and errNotLinked.
func askNode[T any](
	ctx context.Context, f *fleetStatus, n router.NodeDetails,
	ask func(context.Context, status.Pools) (T, error),
) (answer T, err error) {
	if n.Conn == nil {
		return answer, errNotLinked
	}
	select {
	case f.asked <- struct{}{}:
		defer func() { <-f.asked }()
	case <-ctx.Done():
		return answer, ctx.Err()
	}
	ctx, stop := context.WithTimeout(ctx, nodePatience)
	defer stop()
	return ask(ctx, statuslink.NewClient(n.Name, n.Conn))
}
