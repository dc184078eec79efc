package catalog_test

import (
	"testing"

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
