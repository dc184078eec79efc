package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// hostileClaim is the name of a claim that hurts whoever prints it as it is.
const hostileClaim = `"><script>alert(1)</script>`

// newToldPools returns what a node tells of two pools, a and b. b cannot be opened.
func newToldPools(t *testing.T) (*nodeStatus, *pool.Pool) {
	t.Helper()
	good := config.NewPool("a", filepath.Join(t.TempDir(), "secret-path", "a"))
	good.Default, good.TrashRetention = true, time.Hour
	s := newPools(t, good, config.NewPool("b", foreign(t)))
	keepOpening(t, s)
	fixture.Eventually(t, "all pools are tried", func() bool { return s.stillOpening() == nil })
	p, err := s.ByName("a")
	fixture.Must(t, err)
	cfg := config.Default()
	cfg.NodeName = "node-1"
	return newNodeStatus(cfg, s, s.publications, nil), p
}

func createNamed(t *testing.T, p *pool.Pool, name string, owner volume.Owner) volume.Volume {
	t.Helper()
	parsed, err := volume.ParseName(name)
	fixture.Must(t, err)
	parameters, err := volume.ParseParameters(nil)
	fixture.Must(t, err)
	v, err := p.Create(t.Context(), volume.CreateRequest{
		Name: parsed, Size: volume.SizeRange{Required: 1 << 20}, Spec: parameters.Spec, Owner: owner,
	})
	fixture.Must(t, err)
	return v
}

// all reads a list part by part, and returns the number of parts.
func all[T any](
	t *testing.T, list func(context.Context, status.Query) (status.List[T], error), q status.Query,
) (items []T, missing []status.Missing, parts int) {
	t.Helper()
	for {
		l, err := list(t.Context(), q)
		fixture.Must(t, err)
		if len(l.Items) > q.Limit {
			t.Fatalf("%d items, at most %d were asked for", len(l.Items), q.Limit)
		}
		items, missing = append(items, l.Items...), append(missing, l.Missing...)
		parts++
		if l.Next == "" {
			return items, missing, parts
		}
		q.After = l.Next
	}
}

func TestNodeTellsItsPoolsAndWhyOneCannotBeUsed(t *testing.T) {
	n, p := newToldPools(t)
	createNamed(t, p, "pvc-1", volume.Owner{})
	pools, _, parts := all(t, n.Pools, status.Query{Limit: 1})
	if len(pools) != 2 || parts != 2 {
		t.Fatalf("%d pools in %d parts: %+v", len(pools), parts, pools)
	}
	a, b := pools[0], pools[1]
	if a.Name != "a" || a.Node != "node-1" || a.ID != string(p.ID()) || !a.Ready || !a.IsDefault ||
		a.Volumes != 1 || a.SizeBytes == 0 || a.CommittedBytes < 1<<20 || len(a.Use) == 0 {
		t.Errorf("a: %+v", a)
	}
	if b.Name != "b" || b.Ready || b.Reason != string(volume.ReasonForeign) || b.ID != "" {
		t.Errorf("b: %+v", b)
	}
	o, err := n.Overview(t.Context())
	fixture.Must(t, err)
	if o.Pools != 2 || o.PoolsReady != 1 || o.Volumes != 1 || o.SizeBytes != a.SizeBytes {
		t.Errorf("overview: %+v", o)
	}
}

func TestNodeListsVolumesInPartsAndByNamespace(t *testing.T) {
	n, p := newToldPools(t)
	for i := range 7 {
		createNamed(t, p, fmt.Sprintf("pvc-%d", i), volume.Owner{
			Namespace: fmt.Sprintf("ns-%d", i%2), Claim: hostileClaim,
		})
	}
	volumes, missing, parts := all(t, n.Volumes, status.Query{Limit: 3})
	if len(volumes) != 7 || parts < 3 {
		t.Errorf("%d volumes in %d parts", len(volumes), parts)
	}
	byID := func(a, b status.Volume) int { return strings.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(volumes, byID) {
		t.Errorf("not in order: %+v", volumes)
	}
	if len(missing) == 0 || missing[0].Pool != "b" {
		t.Errorf("missing %+v, want pool b", missing)
	}
	volumes, _, _ = all(t, n.Volumes, status.Query{Limit: 2, Namespace: "ns-1"})
	if len(volumes) != 3 {
		t.Errorf("%d volumes of ns-1, want 3", len(volumes))
	}
	for _, v := range volumes {
		if *v.Claim != (status.ObjectName{Namespace: "ns-1", Name: hostileClaim}) ||
			v.CapacityBytes != 1<<20 || v.Kind != status.Directory || v.Source != "" {
			t.Errorf("%+v", v)
		}
	}
	for _, q := range []status.Query{{Node: "node-2"}, {Pool: "c"}, {Pool: "b"}} {
		q.Limit = 10
		if volumes, _, _ := all(t, n.Volumes, q); len(volumes) != 0 {
			t.Errorf("%+v: %+v", q, volumes)
		}
	}
}

func TestNodeTellsOneVolumeWithItsSnapshots(t *testing.T) {
	n, p := newToldPools(t)
	v := createNamed(t, p, "pvc-1", volume.Owner{Namespace: "ns", Claim: "data"})
	name, err := volume.ParseName("snapshot-1")
	fixture.Must(t, err)
	s, err := p.CreateSnapshot(t.Context(), volume.SnapshotRequest{
		Name: name, Source: v.ID, Owner: volume.SnapshotOwner{Namespace: "ns", Snapshot: "before"},
	})
	fixture.Must(t, err)
	told, err := n.Volume(t.Context(), v.ID.String())
	fixture.Must(t, err)
	if len(told.Snapshots) != 1 || told.Snapshots[0].ID != s.ID.String() ||
		told.Snapshots[0].Snapshot.Name != "before" || told.Claim.Name != "data" {
		t.Errorf("%+v", told)
	}
	for _, q := range []status.Query{{}, {Volume: v.ID.String()}, {Namespace: "ns"}} {
		q.Limit = 10
		if snapshots, _, _ := all(t, n.Snapshots, q); len(snapshots) != 1 {
			t.Errorf("%+v: %+v", q, snapshots)
		}
	}
	for _, id := range []string{"", "../x", string(p.ID()) + "-absent", "000000000000-pvc-1"} {
		if _, err := n.Volume(t.Context(), id); !errors.Is(err, status.ErrNotFound) {
			t.Errorf("volume %q: %v, want ErrNotFound", id, err)
		}
	}
}

func TestNodeTellsWhatIsLeftOfTheRetention(t *testing.T) {
	n, p := newToldPools(t)
	for i := range 5 {
		v := createNamed(t, p, fmt.Sprintf("pvc-%d", i), volume.Owner{Namespace: "ns", Claim: "data"})
		fixture.Must(t, p.Delete(t.Context(), v.ID))
	}
	entries, _, parts := all(t, n.Trash, status.Query{Limit: 2})
	if len(entries) != 5 || parts < 3 {
		t.Fatalf("%d entries in %d parts", len(entries), parts)
	}
	for i, e := range entries {
		if e.State != status.Retained || e.LeftSeconds < 3000 || e.LeftSeconds > 3600 ||
			e.ID != fmt.Sprintf("%s-pvc-%d", p.ID(), i) || e.Claim.Name != "data" ||
			time.Since(e.Deleted) > time.Hour || !strings.HasPrefix(e.Entry, "pvc-") {
			t.Errorf("%+v", e)
		}
	}
	pools, _, _ := all(t, n.Pools, status.Query{Pool: "a", Limit: 2})
	if pools[0].TrashEntries != 5 {
		t.Errorf("%d entries, want 5", pools[0].TrashEntries)
	}
	for _, after := range []string{string(p.ID()) + "/x", string(p.ID()) + "/1.x"} {
		_, err := n.Trash(t.Context(), status.Query{Limit: 1, After: after})
		if !errors.Is(err, status.ErrInvalid) {
			t.Errorf("after %q: %v, want ErrInvalid", after, err)
		}
	}
}

// What people are told has no path of the node, whatever is asked.
func TestNodeTellsNoPathOfItself(t *testing.T) {
	n, p := newToldPools(t)
	v := createNamed(t, p, "pvc-1", volume.Owner{})
	told := func(what any, err error) {
		text, marshalErr := json.Marshal(what)
		if marshalErr != nil {
			t.Error(marshalErr)
		}
		if s := fmt.Sprint(string(text), err); strings.Contains(s, "secret-path") ||
			strings.Contains(s, "/tmp") {
			t.Errorf("a path is told: %s", s)
		}
	}
	q := status.Query{Limit: 10}
	a, err := n.Pools(t.Context(), q)
	told(a, err)
	b, err := n.Volumes(t.Context(), q)
	told(b, err)
	c, err := n.Volume(t.Context(), v.ID.String())
	told(c, err)
	d, err := n.Copies(t.Context(), q)
	told(d, err)
	_, err = n.Volume(t.Context(), "000000000000-pvc-1")
	told(nil, err)
}

// A node may lack an optional pool: its volumes are not missing, as it has none.
func TestNothingIsMissingOfAnOptionalPoolThatIsAbsent(t *testing.T) {
	absent := config.NewPool("fast", filepath.Join(t.TempDir(), "absent"))
	absent.Optional = true
	s := newPools(t, config.NewPool("a", filepath.Join(t.TempDir(), "a")), absent)
	keepOpening(t, s)
	fixture.Eventually(t, "all pools are tried", func() bool { return s.stillOpening() == nil })
	n := newNodeStatus(config.Default(), s, s.publications, nil)
	_, missing, _ := all(t, n.Volumes, status.Query{Limit: 10})
	if len(missing) != 0 {
		t.Errorf("missing %+v", missing)
	}
	pools, _, _ := all(t, n.Pools, status.Query{Limit: 10})
	if len(pools) != 2 || !slices.ContainsFunc(pools, func(p status.Pool) bool {
		return p.Name == "fast" && p.Optional && p.Reason == string(volume.ReasonAbsent)
	}) {
		t.Errorf("pools %+v", pools)
	}
}

func TestPoolThatHangsIsMissingAndTheOthersAreTold(t *testing.T) {
	n, p := newToldPools(t)
	createNamed(t, p, "pvc-1", volume.Owner{})
	n.asking = stuck.NewCalls(50 * time.Millisecond)
	answer := make(chan struct{})
	defer close(answer)
	hangs := stuck.Question{Key: "a", Path: "/secret-path"}
	_, err := stuck.Do(t.Context(), n.asking, hangs, func() (struct{}, error) {
		<-answer
		return struct{}{}, nil
	}, nil)
	if err == nil {
		t.Fatal("the question was answered")
	}
	volumes, missing, _ := all(t, n.Volumes, status.Query{Limit: 10})
	reason := "pool a cannot be used: hangs"
	if len(volumes) != 0 || !slices.ContainsFunc(missing, func(m status.Missing) bool {
		return m.Pool == "a" && m.Reason == reason
	}) {
		t.Errorf("%+v, missing %+v, want %q", volumes, missing, reason)
	}
}
