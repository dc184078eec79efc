package status

import (
	"context"
	"fmt"
	"time"
)

// hostile is a name that runs a script if it is printed as it is: in text, in an attribute, in a
// URL.
const hostile = `"><script>alert(1)</script><img src=x onerror=alert(2)>'`

// fake is a fleet of three nodes. Its times are those of now.
type fake struct {
	err   error
	asked Query
}

var _ Source = (*fake)(nil)

func use(from, to int64) (samples []Sample) {
	now := time.Now().UTC().Truncate(time.Second)
	for i := range int64(49) {
		wave := (to - from) / 20 * (i % 5)
		samples = append(samples, Sample{
			Time: now.Add(time.Duration(i-48) * 30 * time.Minute), Bytes: from + (to-from)*i/48 + wave,
		})
	}
	return samples
}

func (f *fake) Overview(context.Context) (Overview, error) {
	return Overview{
		Deployment: Central, DriverName: "hostpath.csi.local", Version: "v0.9.0", Time: time.Now().UTC(),
		Nodes: 3, NodesLinked: 2, Pools: 4, PoolsReady: 3, SizeBytes: 7 << 40, AvailableBytes: 3 << 40,
		Volumes: 214, Snapshots: 61, UnhealthyVolumes: 2,
	}, nil
}

func (f *fake) pools() []Pool {
	return []Pool{
		{
			Node: "node-a", Name: "fast", ID: "0123456789ab", IsDefault: true, Ready: true,
			Filesystem: "btrfs", EnforcesSizes: true, SizeBytes: 2 << 40, UsedBytes: 1 << 40,
			FreeBytes: 1 << 40, AvailableBytes: 700 << 30, CommittedBytes: 1300 << 30,
			TrashBytes: 40 << 30, Volumes: 120, Snapshots: 61, TrashEntries: 3, Copies: 2,
			Use: use(900<<30, 1<<40), GrowthBytesPerDay: new(int64(124 << 30)),
		},
		{
			Node: "node-a", Name: "archive", ID: "1123456789ab", Ready: false, Reason: "disk_failed",
			Volumes: 12, UnhealthyVolumes: 12,
		},
		{
			Node: "node-b", Name: "fast", ID: "2123456789ab", IsDefault: true, Ready: true,
			Filesystem: "projquota", EnforcesSizes: true, SizeBytes: 2 << 40, UsedBytes: 1990 << 30,
			FreeBytes: 58 << 30, AvailableBytes: 20 << 30, CommittedBytes: 2000 << 30, Volumes: 70,
			UnhealthyVolumes: 2, Faults: map[string]int64{"size_not_enforced": 1, "growth_failed": 1},
			Use: use(1800<<30, 1990<<30), GrowthBytesPerDay: new(int64(190 << 30)),
		},
		{
			Node: "node-c", Name: "fast", ID: "3123456789ab", IsDefault: true, Ready: true,
			SizeBytes: 3 << 40, AvailableBytes: 2 << 40, Volumes: 12,
			AsOf: new(time.Now().Add(-2 * time.Hour)),
		},
	}
}

func listed[T any](f *fake, q Query, items []T) (List[T], error) {
	f.asked = q
	if f.err != nil {
		return List[T]{}, f.err
	}
	l := List[T]{Items: items[:min(len(items), q.Limit)]}
	if len(l.Items) < len(items) {
		l.Next = "next part"
	}
	return l, nil
}

func (f *fake) Pools(_ context.Context, q Query) (List[Pool], error) {
	var pools []Pool
	for _, p := range f.pools() {
		if q.Node == "" || p.Node == q.Node {
			pools = append(pools, p)
		}
	}
	l, err := listed(f, q, pools)
	if q.Node == "" || q.Node == "node-c" {
		l.Missing = []Missing{{Node: "node-c", Reason: "it is not linked: the connection was cut"}}
	}
	return l, err
}

func (f *fake) Nodes(_ context.Context, q Query) (List[Node], error) {
	var nodes []Node
	for _, name := range []string{"node-a", "node-b", "node-c"} {
		n := Node{
			Name: name, Linked: true, Since: time.Now().Add(-50 * time.Hour), DriverVersion: "v0.9.0",
		}
		if name == "node-c" {
			n.Linked, n.Why, n.DriverVersion = false, "the connection was cut", ""
		}
		if q.Node == "" || q.Node == name {
			nodes = append(nodes, n)
		}
	}
	return listed(f, q, nodes)
}

func (f *fake) volumes() []Volume {
	created := time.Now().UTC().Truncate(time.Second).Add(-40 * 24 * time.Hour)
	volumes := []Volume{
		{
			ID: "0123456789ab-pvc-3f0c", Node: "node-a", Pool: "fast", Name: "pvc-3f0c",
			Claim: &ObjectName{"shop", "orders-db-0"}, Kind: Image, CapacityBytes: 64 << 30,
			UsedBytes: new(int64(52 << 30)), EnforcesSize: true, Created: created,
			Pods:              []Pod{{UID: "6f1d8b0e", Namespace: "shop", Name: "orders-db-0"}},
			GrowthBytesPerDay: new(int64(3 << 30)), Source: "0123456789ab-s-nightly",
			TrashRetentionSeconds: new(int64(259200)), UsedInodes: new(int64(4711)),
		},
		{
			ID: "0123456789ab-h-0", Node: "node-a", Pool: "fast", Name: hostile,
			Claim: &ObjectName{hostile, hostile}, Kind: Directory, CapacityBytes: 1 << 30,
			Created: created, Faults: []string{"size_not_enforced", hostile},
			Pods: []Pod{{UID: hostile, Namespace: hostile, Name: hostile}}, Source: hostile,
			PersistentVolume: &PersistentVolume{},
		},
		{ID: "0123456789ab-damaged", Node: "node-a", Pool: "fast", Damaged: true},
		{
			ID: "2123456789ab-csi-1", Node: "node-b", Pool: "fast", Name: "csi-1", Inline: true,
			Kind: Directory, CapacityBytes: 1 << 30, UsedBytes: new(int64(1 << 29)),
			EnforcesSize: true, Created: created, Pods: []Pod{{UID: "0d4c1f9a"}},
		},
		{
			ID: "2123456789ab-git-1", Node: "node-b", Pool: "fast", Name: "git-1", Inline: true,
			Kind: GitTree, CapacityBytes: 1 << 27, UsedBytes: new(int64(1 << 26)), EnforcesSize: true,
			Created: created, Pods: []Pod{{UID: "7d4c1f9a", Namespace: "web", Name: "site-0"}},
			Git: &Git{
				URL: "ssh://git.example.com/web/site", Ref: "main",
				Commit: "3f5a0c9be1d23f5a0c9be1d23f5a0c9be1d23f5a", Fetched: created,
			},
		},
		{
			ID: "2123456789ab-git-2", Node: "node-b", Pool: "fast", Name: "git-2", Inline: true,
			Kind: GitTree, CapacityBytes: 1 << 27, Created: created, Faults: []string{"git_stale"},
			Git: &Git{URL: hostile, Ref: hostile, Commit: hostile},
		},
	}
	for i := range 6 {
		name := fmt.Sprintf("cache-%d", i)
		volumes = append(volumes, Volume{
			ID: "2123456789ab-" + name, Node: "node-b", Pool: "fast", Name: name,
			Claim: &ObjectName{"web", name}, Kind: Directory, CapacityBytes: 10 << 30,
			UsedBytes: new(int64(i) << 30), EnforcesSize: true, Created: created,
		})
	}
	return volumes
}

func (f *fake) Volumes(_ context.Context, q Query) (List[Volume], error) {
	return listed(f, q, f.volumes())
}

func (f *fake) Volume(_ context.Context, id string) (Volume, error) {
	for _, v := range f.volumes() {
		if v.ID == id {
			v.Use = use(41<<30, 52<<30)
			v.Snapshots = f.snapshots()
			return v, f.err
		}
	}
	return Volume{}, fmt.Errorf("%w: volume %s", ErrNotFound, id)
}

func (f *fake) snapshots() []Snapshot {
	taken := time.Now().UTC().Truncate(time.Second).Add(-26 * time.Hour)
	return []Snapshot{
		{
			ID: "0123456789ab-s-nightly", Node: "node-a", Pool: "fast", Name: "nightly",
			Volume: "0123456789ab-pvc-3f0c", Snapshot: &ObjectName{"shop", "nightly"},
			RestoreBytes: 64 << 30, HeldBytes: 9 << 30, Created: taken,
		},
		{
			ID: "0123456789ab-s-" + hostile, Node: hostile, Pool: hostile, Name: hostile,
			Volume: hostile, Snapshot: &ObjectName{hostile, hostile}, Group: hostile, Created: taken,
		},
		{ID: "0123456789ab-s-damaged", Node: "node-a", Pool: "fast", Damaged: true},
	}
}

func (f *fake) Snapshots(_ context.Context, q Query) (List[Snapshot], error) {
	return listed(f, q, f.snapshots())
}

func (f *fake) Trash(_ context.Context, q Query) (List[TrashEntry], error) {
	deleted := time.Now().UTC().Truncate(time.Second).Add(-20 * time.Hour)
	return listed(f, q, []TrashEntry{
		{
			Node: "node-a", Pool: "fast", Entry: "pvc-77.0011aabb", ID: "0123456789ab-pvc-77",
			Claim: &ObjectName{"shop", "old-orders"}, PromisedBytes: 20 << 30, Deleted: deleted,
			State: Retained, PurgedAfter: deleted.Add(72 * time.Hour), LeftSeconds: 52 * 3600,
		},
		{
			Node: "node-a", Pool: "fast", Entry: hostile, ID: hostile, Claim: &ObjectName{hostile, hostile},
			PromisedBytes: 1 << 30, Deleted: deleted, State: Failing, PurgedAfter: deleted,
		},
		{Node: "node-b", Pool: "fast", Entry: "s-x.00", Deleted: deleted, State: Purging},
	})
}

func (f *fake) Copies(_ context.Context, q Query) (List[Copy], error) {
	return listed(f, q, []Copy{
		{
			Node: "node-b", Pool: "fast", What: "volume 2123456789ab-pvc-90",
			Source: "2123456789ab-s-weekly", Began: time.Now().Add(-7 * time.Minute),
			CopiedBytes: 11 << 30, CopiedFiles: 80211,
			TotalBytes: new(int64(30 << 30)),
		},
		{
			Node: "node-b", Pool: "fast", What: "group snapshot " + hostile, Began: time.Now(),
			Source: hostile,
		},
	})
}
