package catalog

import "github.com/csi-hostpath/csi-hostpath/pkg/volume"

// groups has the groups of snapshots by the directory names of their names, and how many
// snapshots in the catalog are in each of them.
type groups map[string]groupCount

type groupCount struct {
	group volume.SnapshotGroup
	n     int
}

// add counts one more snapshot of a group; the zero group is none.
func (g groups) add(group volume.SnapshotGroup) {
	if group == (volume.SnapshotGroup{}) {
		return
	}
	g[group.Name.Dir()] = groupCount{group, g[group.Name.Dir()].n + 1}
}

// remove takes one snapshot from a group; the zero group is none.
func (g groups) remove(group volume.SnapshotGroup) {
	dir := group.Name.Dir()
	if count := g[dir]; count.n > 1 {
		g[dir] = groupCount{count.group, count.n - 1}
		return
	}
	delete(g, dir)
}

// Group returns the group with that directory name, and the entries that it has: fewer than it
// should have when a crash interrupted its creation or its deletion. A damaged entry counts as
// there; one that is of another group, or of none, does not.
func (c *Catalog) Group(dir string) (g volume.SnapshotGroup, members []*Entry) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	g = c.groups[dir].group
	return g, c.membersLocked(g)
}

func (c *Catalog) membersLocked(g volume.SnapshotGroup) (members []*Entry) {
	for _, dir := range g.MemberDirs() {
		e, ok := c.byDir.Get(&Entry{Dir: dir})
		if ok && (e.Damaged() != nil || e.Group() == g) {
			members = append(members, e)
		}
	}
	return members
}

// PartialGroups lists the groups that lack snapshots.
func (c *Catalog) PartialGroups() (partial []volume.SnapshotGroup) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, count := range c.groups {
		if g := count.group; len(c.membersLocked(g)) < len(g.Sources()) {
			partial = append(partial, g)
		}
	}
	return partial
}

// ClaimDamaged gives the damaged entries to the groups that name them: a damaged snapshot does not
// say its group, but the others of the group do. From then on a group is known until its damaged
// entries are gone as well. Call it once, when all entries are in.
func (c *Catalog) ClaimDamaged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.damaged) == 0 {
		return
	}
	for _, count := range c.groups {
		for _, dir := range count.group.MemberDirs() {
			if group, isDamaged := c.damaged[dir]; isDamaged && group == (volume.SnapshotGroup{}) {
				c.damaged[dir] = count.group
				c.groups.add(count.group)
			}
		}
	}
}

// UnclaimedDamaged lists the damaged entries that have the name of a group's snapshot, and that no
// group names.
func (c *Catalog) UnclaimedDamaged() (unclaimed []*Entry) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for dir, group := range c.damaged {
		if e, ok := c.byDir.Get(&Entry{Dir: dir}); ok && group == (volume.SnapshotGroup{}) {
			unclaimed = append(unclaimed, e)
		}
	}
	return unclaimed
}

// GroupOf returns the group of a snapshot; zero if it was taken alone. The group of a damaged one
// is known after ClaimDamaged.
func (c *Catalog) GroupOf(e *Entry) volume.SnapshotGroup {
	if e.Damaged() == nil {
		return e.Group()
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.damaged[e.Dir]
}
