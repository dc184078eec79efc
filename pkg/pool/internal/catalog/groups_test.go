package catalog_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// newGroup returns a group and its snapshots.
func newGroup(t *testing.T, name string) (g volume.SnapshotGroup, members []volume.Snapshot) {
	t.Helper()
	sources := []volume.ID{
		volume.NewID(poolID, parseName(t, "v")), volume.NewID(poolID, parseName(t, "w")),
	}
	g, err := volume.NewSnapshotGroup(parseName(t, name), sources)
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		member := g.MemberName(source)
		members = append(members, volume.Snapshot{
			ID: volume.NewSnapshotID(poolID, member), Name: member, Source: source, Group: g,
		})
	}
	return g, members
}

// The name of a member may be that of a snapshot that was taken alone before the group.
func TestSnapshotWithTheNameOfAMemberIsNone(t *testing.T) {
	c := catalog.New(weight)
	g, members := newGroup(t, "g")
	c.Put(catalog.NewSnapshot(members[0]))
	foreign := members[1]
	foreign.Group = volume.SnapshotGroup{}
	c.Put(catalog.NewSnapshot(foreign))
	if _, got := c.Group(g.Name.Dir()); dirs(got) != members[0].ID.Dir() {
		t.Errorf("the group has %q, want %q", dirs(got), members[0].ID.Dir())
	}
	if got := c.PartialGroups(); len(got) != 1 || got[0] != g {
		t.Errorf("partial are %v, want the group", got)
	}
	c.Put(catalog.NewDamaged(foreign.ID.Dir(), volume.ErrCorrupt))
	if _, got := c.Group(g.Name.Dir()); len(got) != 2 {
		t.Errorf("with a damaged snapshot the group has %q, want both", dirs(got))
	}
	if got := c.PartialGroups(); len(got) != 0 {
		t.Errorf("partial are %v, want none", got)
	}
}

func TestDamagedSnapshotIsOfTheGroupThatNamesIt(t *testing.T) {
	c := catalog.New(weight)
	g, members := newGroup(t, "g")
	alone := parseName(t, "g-0123456789012345678901234567890123456789")
	damaged := catalog.NewDamaged(members[0].ID.Dir(), volume.ErrCorrupt)
	foreign := catalog.NewDamaged(alone.Dir(), volume.ErrCorrupt)
	c.Put(damaged)
	c.Put(foreign)
	c.Put(catalog.NewDamaged("plain", volume.ErrCorrupt))
	c.Put(catalog.NewSnapshot(members[1]))
	c.ClaimDamaged()
	if got := c.GroupOf(damaged); got != g {
		t.Errorf("the damaged snapshot is of %v, want %v", got, g)
	}
	if got := c.GroupOf(foreign); got != (volume.SnapshotGroup{}) {
		t.Errorf("another damaged snapshot is of %v", got)
	}
	if got := c.UnclaimedDamaged(); dirs(got) != foreign.Dir {
		t.Errorf("unclaimed are %q, want %q", dirs(got), foreign.Dir)
	}
	c.Remove(members[1].ID.Dir())
	if got, left := c.Group(g.Name.Dir()); got != g || dirs(left) != damaged.Dir {
		t.Errorf("with its damaged snapshot the group is %v with %q", got, dirs(left))
	}
	c.Remove(damaged.Dir)
	if got, left := c.Group(g.Name.Dir()); got != (volume.SnapshotGroup{}) || len(left) > 0 {
		t.Errorf("without snapshots the group is %v with %q", got, dirs(left))
	}
}

// fullGroup returns the snapshots of a group of as many volumes as are allowed, each with a copy of
// the group of its own, as records are read.
func fullGroup(tb testing.TB, name string) (members []volume.Snapshot) {
	tb.Helper()
	var sources []volume.ID
	for i := range volume.MaxGroupVolumes {
		sources = append(sources, volume.NewID(poolID, parseName(tb, fmt.Sprintf("pvc-%036d", i))))
	}
	for _, source := range sources {
		g, err := volume.NewSnapshotGroup(parseName(tb, strings.Clone(name)), sources)
		if err != nil {
			tb.Fatal(err)
		}
		member := g.MemberName(source)
		members = append(members, volume.Snapshot{
			ID: volume.NewSnapshotID(poolID, member), Name: member, Source: source, Group: g,
		})
	}
	return members
}

func TestSnapshotsOfAGroupShareTheMemoryOfItsName(t *testing.T) {
	members := fullGroup(t, "groupsnapshot-1")
	address := func(e *catalog.Entry) *byte {
		name := e.Group().Name.String()
		return unsafe.StringData(name) //nolint:gosec // where it is, and not what it has
	}
	first, second := catalog.NewSnapshot(members[0]), catalog.NewSnapshot(members[1])
	if address(first) != address(second) {
		t.Error("two snapshots of a group have two copies of the group")
	}
	// The memory is shared only as long as an entry has it.
	runtime.KeepAlive(first)
	runtime.KeepAlive(second)
}

// BenchmarkMemoryOfGroups reports what a snapshot of a group of 64 volumes takes.
func BenchmarkMemoryOfGroups(b *testing.B) {
	var before, after runtime.MemStats
	const groups = 200
	for b.Loop() {
		c := catalog.New(weight)
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range groups {
			for _, s := range fullGroup(b, fmt.Sprintf("groupsnapshot-%036d", i)) {
				c.Put(catalog.NewSnapshot(s))
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(c.Len()), "B/snapshot")
	}
}
