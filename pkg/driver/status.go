package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/nodeserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// maxSearched is how many volumes or snapshots of a pool one request looks at if most of them may
	// be left out.
	maxSearched = status.MaxLimit
	// maxShownPods bounds the pods of one volume.
	maxShownPods = 16
)

// nodeStatus is what a node tells people about itself. It has no path of the node.
type nodeStatus struct {
	node         string
	driverName   string
	pools        *poolSet
	publications *nodeserver.Publications
	git          *gitsource.Contents
	asking       *stuck.Calls // one question at a time for each pool
	started      time.Time
}

var _ status.Source = (*nodeStatus)(nil)

func newNodeStatus(
	cfg config.Config, pools *poolSet, publications *nodeserver.Publications,
	git *gitsource.Contents,
) *nodeStatus {
	return &nodeStatus{
		node: cfg.NodeName, driverName: cfg.DriverName, pools: pools, publications: publications,
		git: git, asking: stuck.NewCalls(statusPatience), started: time.Now(),
	}
}

// uses is what the filesystems of pools have held over the last day. A question about a pool's
// status adds to it; kubelet's probe asks every 10 s.
type uses struct {
	mu     sync.Mutex
	byPool map[string]*status.History
}

func (u *uses) note(name string, bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byPool == nil {
		u.byPool = map[string]*status.History{}
	}
	if u.byPool[name] == nil {
		u.byPool[name] = &status.History{}
	}
	u.byPool[name].Note(time.Now(), bytes)
}

func (u *uses) of(name string) []status.Sample {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byPool[name] == nil {
		return nil
	}
	return u.byPool[name].Samples(time.Now())
}

// Overview implements status.Source.
func (n *nodeStatus) Overview(context.Context) (status.Overview, error) {
	o := status.Overview{
		Deployment: status.NodeDeployment, DriverName: n.driverName, Version: version.Version,
		Time: time.Now().UTC(), Nodes: 1, NodesLinked: 1,
	}
	for _, p := range n.pools.statuses() { //nolint:contextcheck // it waits for statusPatience at most
		o.Add(n.describe(p))
	}
	return o, nil
}

// Nodes implements status.Source.
func (n *nodeStatus) Nodes(
	ctx context.Context, q status.Query,
) (list status.List[status.Node], err error) {
	if q.Node != "" && q.Node != n.node || q.After != "" {
		return list, nil
	}
	pools, err := n.Pools(ctx, status.Query{Pool: q.Pool, Limit: status.MaxLimit})
	if err != nil {
		return list, err
	}
	list.Items = []status.Node{{
		Name: n.node, Linked: true, Since: n.started.UTC(), DriverVersion: version.Version,
		Pools: pools.Items,
	}}
	return list, nil
}

// Pools implements status.Pools. They are in the order of their names.
func (n *nodeStatus) Pools(
	_ context.Context, q status.Query,
) (list status.List[status.Pool], err error) {
	if n.isElsewhere(q) {
		return list, nil
	}
	all := n.pools.statuses() //nolint:contextcheck // as in Overview
	slices.SortFunc(all, func(a, b poolStatus) int {
		return cmp.Compare(a.config.Name, b.config.Name)
	})
	for _, p := range all {
		switch {
		case q.Pool != "" && p.config.Name != q.Pool, p.config.Name <= q.After:
		case len(list.Items) == q.Limit:
			list.Next = list.Items[len(list.Items)-1].Name
			return list, nil
		default:
			list.Items = append(list.Items, n.describe(p))
		}
	}
	return list, nil
}

func (n *nodeStatus) isElsewhere(q status.Query) bool { return q.Node != "" && q.Node != n.node }

// describe asks no disk.
func (n *nodeStatus) describe(p poolStatus) status.Pool {
	shown := status.Pool{
		Node: n.node, Name: p.config.Name, IsDefault: p.config.Name == n.pools.defaultPool,
		Optional: p.config.Optional, Ready: p.err == nil, Use: n.pools.uses.of(p.config.Name),
	}
	shown.GrowthBytesPerDay = status.Growth(shown.Use)
	if p.last != nil {
		shown.ID = string(p.last.ID())
		f := p.last.Filesystem()
		shown.Filesystem, shown.EnforcesSizes, shown.NoExec = f.Backend, f.EnforcesSizes, f.NoExec
		shown.Volumes = int64(p.last.VolumeCount())
		shown.UnhealthyVolumes = int64(len(p.last.Unhealthy("", p.last.VolumeCount())))
	}
	if p.err != nil {
		shown.Reason = string(volume.ReasonOf(p.err))
		shown.UnhealthyVolumes = shown.Volumes
		return shown
	}
	s := p.status
	shown.SizeBytes, shown.UsedBytes, shown.FreeBytes = s.SizeBytes, s.UsedBytes, s.FreeBytes
	shown.AvailableBytes, shown.CommittedBytes = s.AvailableBytes, s.CommittedBytes
	shown.SnapshotBytes, shown.TrashBytes = s.SnapshotBytes, s.TrashBytes
	shown.Volumes, shown.Snapshots = int64(s.Volumes), int64(s.Snapshots)
	shown.TrashEntries, shown.PurgesFailing = int64(s.TrashEntries), int64(s.PurgesFailing)
	shown.Copies = int64(s.Copies)
	for fault, volumes := range s.Faults {
		if volumes > 0 {
			if shown.Faults == nil {
				shown.Faults = map[string]int64{}
			}
			shown.Faults[string(fault)] = int64(volumes)
		}
	}
	return shown
}

// Volumes implements status.Pools. They are in the order of their IDs.
func (n *nodeStatus) Volumes(
	ctx context.Context, q status.Query,
) (status.List[status.Volume], error) {
	part := func(p *pool.Pool, after string, limit int) ([]status.Volume, string, error) {
		return search(q, limit, func(looked int) []pool.VolumeDetails { return p.Details(after, looked) },
			func(d pool.VolumeDetails) (status.Volume, string, string) {
				return n.volume(p, d), d.Owner.Namespace, d.ID.Dir()
			})
	}
	return parts(ctx, n, q, part)
}

// Snapshots implements status.Pools. They are in the order of their IDs.
func (n *nodeStatus) Snapshots(
	ctx context.Context, q status.Query,
) (status.List[status.Snapshot], error) {
	of, err := volume.ParseID(q.Volume)
	if q.Volume != "" && err != nil { // no snapshot is of it
		return status.List[status.Snapshot]{}, nil //nolint:nilerr // said above
	}
	part := func(p *pool.Pool, after string, limit int) ([]status.Snapshot, string, error) {
		read := func(looked int) []volume.Snapshot { return p.SnapshotDetails(after, looked) }
		if q.Volume != "" {
			read = func(looked int) []volume.Snapshot { return p.SnapshotDetailsOf(of, after, looked) }
		}
		return search(q, limit, read, func(s volume.Snapshot) (status.Snapshot, string, string) {
			return n.snapshot(p, s), s.Owner.Namespace, s.ID.Dir()
		})
	}
	return parts(ctx, n, q, part)
}

// search makes a part of a list of what read finds: items in the query's namespace. It returns the
// key after which the next part begins; empty: there is none.
//
//nolint:unparam // its callers return what it returns, with the error
func search[From, To any](
	q status.Query, limit int, read func(looked int) []From,
	convert func(From) (item To, namespace, key string),
) (items []To, next string, err error) {
	looked := limit
	if q.Namespace != "" {
		looked = maxSearched
	}
	found := read(looked)
	for i, from := range found {
		item, namespace, key := convert(from)
		if q.Namespace == "" || namespace == q.Namespace {
			items = append(items, item)
		}
		isLast := i == len(found)-1 && len(found) < looked
		if len(items) == limit && !isLast || i == looked-1 {
			return items, key, nil
		}
	}
	return items, "", nil
}

// Trash implements status.Pools. Those of a pool are in the order in which they are due.
func (n *nodeStatus) Trash(
	ctx context.Context, q status.Query,
) (status.List[status.TrashEntry], error) {
	now := time.Now()
	part := func(p *pool.Pool, after string, limit int) ([]status.TrashEntry, string, error) {
		key, err := parseTrashKey(after)
		if err != nil {
			return nil, "", err
		}
		return search(q, limit, func(looked int) []pool.TrashEntry { return p.TrashEntries(key, looked) },
			func(e pool.TrashEntry) (status.TrashEntry, string, string) {
				return n.trashEntry(p, e, now), e.Owner.Namespace, formatTrashKey(e.Key)
			})
	}
	return parts(ctx, n, q, part)
}

func formatTrashKey(k pool.TrashKey) string { return fmt.Sprintf("%d.%d", k.UnixNano, k.Number) }

func parseTrashKey(s string) (k pool.TrashKey, err error) {
	if s == "" {
		return k, nil
	}
	due, number, _ := strings.Cut(s, ".")
	if k.UnixNano, err = strconv.ParseInt(due, 10, 64); err == nil {
		k.Number, err = strconv.ParseUint(number, 10, 64)
	}
	if err != nil {
		return k, fmt.Errorf("%w: after: %q is not of this list", status.ErrInvalid, s)
	}
	return k, nil
}

// Copies implements status.Pools. Those of a pool are in the order of what they make.
func (n *nodeStatus) Copies(
	ctx context.Context, q status.Query,
) (status.List[status.Copy], error) {
	part := func(p *pool.Pool, after string, limit int) (items []status.Copy, next string, err error) {
		all := p.Copies()
		slices.SortFunc(all, func(a, b pool.CopyDetails) int { return cmp.Compare(a.What, b.What) })
		for _, c := range all {
			if c.What <= after {
				continue
			}
			if len(items) == limit {
				return items, items[limit-1].What, nil
			}
			items = append(items, status.Copy{
				Node: n.node, Pool: p.Name(), What: c.What, Began: c.Began.UTC().Truncate(time.Second),
				CopiedBytes: c.CopiedBytes, CopiedFiles: c.CopiedFiles, Source: c.Source,
				TotalBytes: c.TotalBytes,
			})
		}
		return items, "", nil
	}
	return parts(ctx, n, q, part)
}

// Volume implements status.Pools.
func (n *nodeStatus) Volume(ctx context.Context, text string) (status.Volume, error) {
	id, err := volume.ParseID(text)
	if err != nil {
		return status.Volume{}, fmt.Errorf("%w: %q is not the ID of a volume", status.ErrNotFound, text)
	}
	slots, giveBack := n.pools.borrow()
	defer giveBack()
	i := slices.IndexFunc(slots, func(s poolSlot) bool {
		return s.last != nil && s.last.ID() == id.Pool()
	})
	if i < 0 {
		return status.Volume{}, fmt.Errorf("%w: this node has no open pool %s", status.ErrNotFound,
			id.Pool())
	}
	return ask(ctx, n, slots[i], func(p *pool.Pool) (status.Volume, error) {
		d, err := p.DetailsOf(id)
		if err != nil {
			return status.Volume{}, fmt.Errorf("%w: volume %s", status.ErrNotFound, id)
		}
		v := n.volume(p, d)
		v.Use = n.publications.Use(v.ID)
		for _, s := range p.SnapshotDetailsOf(id, "", status.DefaultLimit) {
			v.Snapshots = append(v.Snapshots, n.snapshot(p, s))
		}
		return v, nil
	})
}

// ask asks the pool of a slot, which may not answer. Errors: a sentence without a path of the node.
func ask[T any](
	ctx context.Context, n *nodeStatus, slot poolSlot, question func(*pool.Pool) (T, error),
) (answer T, err error) {
	if why := slot.refusal(); why != nil {
		return answer, refused(slot, why)
	}
	q := stuck.Question{Key: slot.config.Name, Path: slot.where()}
	answer, err = stuck.Do(ctx, n.asking, q, func() (T, error) {
		defer n.pools.Use()() // nobody may wait for the answer any more
		return question(slot.pool)
	}, nil)
	if err != nil && !errors.Is(err, status.ErrNotFound) && !errors.Is(err, status.ErrInvalid) {
		return answer, refused(slot, err)
	}
	return answer, err
}

func refused(slot poolSlot, why error) error {
	return fmt.Errorf("pool %s cannot be used: %s", slot.config.Name, volume.ReasonOf(why))
}

// parts makes a part of a list that goes from pool to pool, in the order of their IDs. part returns
// at most limit items of a pool after a key, and the key after which more follow. What is after
// begins with the ID of a pool: "ID/key".
func parts[T any](
	ctx context.Context, n *nodeStatus, q status.Query,
	part func(p *pool.Pool, after string, limit int) (items []T, next string, err error),
) (list status.List[T], err error) {
	if n.isElsewhere(q) {
		return list, nil
	}
	afterPool, afterKey, _ := strings.Cut(q.After, "/")
	slots, giveBack := n.pools.borrow()
	defer giveBack()
	slices.SortFunc(slots, func(a, b poolSlot) int { return cmp.Compare(idOf(a), idOf(b)) })
	type answer struct {
		items []T
		next  string
	}
	for _, slot := range slots {
		if q.Pool != "" && slot.config.Name != q.Pool || idOf(slot) < afterPool || slot.hasNothing() {
			continue
		}
		after := ""
		if idOf(slot) == afterPool {
			after = afterKey
		}
		got, err := ask(ctx, n, slot, func(p *pool.Pool) (a answer, err error) {
			a.items, a.next, err = part(p, after, q.Limit-len(list.Items))
			return a, err
		})
		if errors.Is(err, status.ErrInvalid) {
			return list, err
		}
		if err != nil {
			list.Missing = append(list.Missing,
				status.Missing{Node: n.node, Pool: slot.config.Name, Reason: err.Error()})
			continue
		}
		list.Items = append(list.Items, got.items...)
		if got.next != "" {
			list.Next = idOf(slot) + "/" + got.next
			return list, nil
		}
		if len(list.Items) == q.Limit { // the next pool may have more
			list.Next = idOf(slot) + "/" + lastKey
			return list, nil
		}
	}
	return list, nil
}

// hasNothing says whether the pool is optional and was never there: nothing of it is missing.
func (s *poolSlot) hasNothing() bool {
	return s.last == nil && s.err != nil && isAbsent(s, s.err)
}

// lastKey is after every key of a pool.
const lastKey = "~"

// idOf is empty for a pool that has not been open.
func idOf(s poolSlot) string {
	if s.last == nil {
		return ""
	}
	return string(s.last.ID())
}

func (n *nodeStatus) volume(p *pool.Pool, d pool.VolumeDetails) status.Volume {
	v := status.Volume{
		ID: d.ID.String(), Node: n.node, Pool: p.Name(), Name: d.Name.String(), Inline: d.IsInline(),
		Pods: n.publications.Pods(d.ID.String(), maxShownPods), Kind: kindOf(d.Spec),
		CapacityBytes: d.CapacityBytes, UsedBytes: d.HeldBytes, UsedInodes: d.HeldInodes,
		EnforcesSize: d.EnforcesSize, Created: d.Created.UTC().Truncate(time.Second),
		Damaged: d.IsDamaged,
	}
	if !d.Source.IsNone() {
		v.Source = d.Source.String()
	}
	for _, f := range d.Faults {
		v.Faults = append(v.Faults, string(f))
	}
	if d.IsGitContent() {
		n.addGit(&v, d)
	}
	if d.IsDamaged {
		v.Created = time.Time{}
		return v
	}
	v.Claim = objectName(d.Owner.Namespace, d.Owner.Claim)
	if d.Mutable.TrashRetention != "" {
		seconds := int64(d.Mutable.TrashRetention.Or(0).Seconds())
		v.TrashRetentionSeconds = &seconds
	}
	use := n.publications.Use(v.ID)
	v.GrowthBytesPerDay = status.Growth(use)
	if len(use) > 0 && d.Spec.IsImage() {
		v.UsedBytes = &use[len(use)-1].Bytes
	}
	return v
}

func kindOf(s volume.Spec) status.Kind {
	switch {
	case s.IsBlock():
		return status.Block
	case s.IsImage():
		return status.Image
	case s.Type == volume.FileOrCreate:
		return status.File
	default:
		return status.Directory
	}
}

// objectName is nil if the name is not known.
func objectName(namespace, name string) *status.ObjectName {
	if name == "" {
		return nil
	}
	return &status.ObjectName{Namespace: namespace, Name: name}
}

func (n *nodeStatus) snapshot(p *pool.Pool, s volume.Snapshot) status.Snapshot {
	if s.IsDamaged() {
		return status.Snapshot{ID: s.ID.String(), Node: n.node, Pool: p.Name(), Damaged: true}
	}
	return status.Snapshot{
		ID: s.ID.String(), Node: n.node, Pool: p.Name(), Name: s.Name.String(),
		Volume: s.Source.String(), Snapshot: objectName(s.Owner.Namespace, s.Owner.Snapshot),
		Group: s.Group.Name.String(), RestoreBytes: s.RestoreBytes, HeldBytes: s.HeldBytes,
		Created: s.Created.UTC().Truncate(time.Second),
	}
}

func (n *nodeStatus) trashEntry(
	p *pool.Pool, e pool.TrashEntry, now time.Time,
) status.TrashEntry {
	entry := status.TrashEntry{
		Node: n.node, Pool: p.Name(), Entry: e.Name, ID: e.ID, IsSnapshot: e.IsSnapshot,
		Claim: objectName(e.Owner.Namespace, e.Owner.Claim), PromisedBytes: e.PromisedBytes,
		Deleted: e.Deleted.UTC().Truncate(time.Second), State: status.Purging,
		PurgedAfter:   e.Due.UTC().Truncate(time.Second),
		CapacityBytes: e.CapacityBytes, IsBlock: e.IsBlock, PersistentVolume: e.Owner.PV,
	}
	switch {
	case e.Failing:
		entry.State = status.Failing
	case e.Retained:
		entry.State = status.Retained
		entry.LeftSeconds = int64(max(0, e.Due.Sub(now)).Seconds())
	}
	return entry
}
