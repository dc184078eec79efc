package pool

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// DeleteGroupSnapshot deletes a group snapshot with all of its snapshots, as Delete does a volume.
// snapshots are the IDs that the caller expects in it, or none. Errors: ErrBusy while a volume is
// made from one of them, ErrInvalid when the group has other snapshots, ErrCorrupt when a damaged
// snapshot may be one of its snapshots and nothing proves it. After another error some of its
// snapshots may be gone; then the group is gone as well, and the next call deletes the others.
func (p *Pool) DeleteGroupSnapshot(
	ctx context.Context, id volume.GroupSnapshotID, snapshots []string,
) error {
	unlock, err := p.groupLocks.Lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	g, members := p.snapshots.catalog.Group(id.Dir())
	if len(members) > 0 {
		err = g.CheckMembers(p.id, snapshots)
	} else {
		members, err = p.damagedMembers(id, snapshots)
	}
	if err != nil {
		return err
	}
	if len(members) == 0 {
		return p.finishDeletion(id, p.memberDirs(snapshots)...)
	}
	if err := p.deleteMembers(ctx, id, members); err != nil {
		return fmt.Errorf("delete group snapshot %s: %w", id, err)
	}
	failpoint.Here("group.deleted")
	return nil
}

// memberDirs are the directories of those of the IDs that are of this pool.
func (p *Pool) memberDirs(snapshots []string) (dirs []string) {
	for _, s := range snapshots {
		if id, err := volume.ParseSnapshotID(s); err == nil && id.Pool() == p.id {
			dirs = append(dirs, id.Dir())
		}
	}
	return dirs
}

// damagedMembers are the snapshots of a group of which no record can be read. The name of a damaged
// snapshot proves that it is of the group, if it follows from the group's name and from a volume
// that the pool knows. Its cost grows with the volumes and snapshots of the pool, but only while
// the pool has damaged snapshots of unknown groups. Errors: ErrInvalid when the caller expects
// others; ErrCorrupt when a damaged snapshot may be of the group, and nothing proves it.
func (p *Pool) damagedMembers(
	id volume.GroupSnapshotID, snapshots []string,
) (members []*catalog.Entry, err error) {
	damaged := p.snapshots.catalog.UnclaimedDamaged()
	if len(damaged) == 0 {
		return nil, nil
	}
	dirs, named := p.provenDirs(id), p.memberDirs(snapshots)
	var unproven []string
	for _, e := range damaged {
		isNamed := slices.Contains(named, e.Dir)
		switch {
		case dirs[e.Dir] && len(snapshots) > 0 && !isNamed:
			return nil, fmt.Errorf("%w: group snapshot %s has the snapshot in %s/%s too; requested: %q",
				volume.ErrInvalid, id, layout.SnapshotsDir, e.Dir, snapshots)
		case dirs[e.Dir]:
			members = append(members, e)
		case isNamed || len(snapshots) == 0:
			unproven = append(unproven, e.Dir)
		}
	}
	if len(unproven) > 0 {
		slices.Sort(unproven)
		return nil, fmt.Errorf("%w: group snapshot %s: the records of %q cannot be read, and their "+
			"volumes are gone, so nothing proves that they are of this group: if they are, move them "+
			"from %s/%s to %s/ and restart the driver", volume.ErrCorrupt, id, unproven, p.opts.Path,
			layout.SnapshotsDir, layout.TrashDir)
	}
	return members, nil
}

// provenDirs are the directories that snapshots of a group would have, one for each volume that is
// in the pool or has a snapshot there. There are none if the ID does not tell the group's name.
func (p *Pool) provenDirs(id volume.GroupSnapshotID) map[string]bool {
	group, err := volume.ParseName(id.Dir())
	if err != nil || group.Dir() != id.Dir() {
		return nil
	}
	dirs := map[string]bool{}
	add := func(source volume.ID) { dirs[volume.MemberName(group, source).Dir()] = true }
	for _, e := range p.volumes.catalog.All() {
		if source, err := volume.IDFromDir(p.id, e.Dir); err == nil {
			add(source)
		}
	}
	parent := ""
	for _, e := range p.snapshots.catalog.AllChildren() {
		if e.ParentID == parent {
			continue
		}
		parent = e.ParentID
		if source, err := volume.ParseID(parent); err == nil {
			add(source)
		}
	}
	return dirs
}

// deleteMembers deletes snapshots of a group: all of them or, after an error, some. Damaged ones go
// first: as long as a readable one is there, it names the others. Errors: ErrBusy while a volume is
// made from one of them; then it deletes none.
func (p *Pool) deleteMembers(
	ctx context.Context, id volume.GroupSnapshotID, members []*catalog.Entry,
) error {
	unlock, err := p.lockMembers(members, p.snapshots.catalog.LockUnshared)
	if err != nil {
		return err
	}
	defer unlock()
	p.calls.Enter()
	defer p.calls.Leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	slices.SortStableFunc(members, damagedFirst)
	var dirs []string
	for _, e := range members {
		deleted, err := p.snapshots.moveToTrash(e)
		if err != nil {
			return err
		}
		p.halfDeleted.add(id, deleted)
		dirs = append(dirs, e.Dir)
		failpoint.Here("group.member-deleted")
	}
	return p.finishDeletion(id, dirs...)
}

func damagedFirst(a, b *catalog.Entry) int {
	switch isDamaged := a.Damaged() != nil; {
	case isDamaged == (b.Damaged() != nil):
		return 0
	case isDamaged:
		return -1
	default:
		return 1
	}
}

// finishDeletion makes durable that the snapshots of a group are deleted, which this call or an
// earlier one has done, and gives them to the purge.
func (p *Pool) finishDeletion(id volume.GroupSnapshotID, dirs ...string) error {
	err := p.trash.SyncDeleted(p.snapshots.dir, dirs...)
	for _, e := range p.halfDeleted.take(id) {
		if err != nil {
			p.trash.QueueFailed(e)
		} else {
			p.trash.Queue(e)
		}
	}
	return err
}

// halfDeleted has the deleted snapshots of groups that have others left. In the trash they tell the
// next start that the group is being deleted, so they are purged only after the others are deleted,
// too. A start purges what an earlier process has left of them. The zero value is ready.
type halfDeleted struct {
	mu      sync.Mutex
	entries map[volume.GroupSnapshotID][]trash.Entry
}

func (h *halfDeleted) add(id volume.GroupSnapshotID, e trash.Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.entries == nil {
		h.entries = map[volume.GroupSnapshotID][]trash.Entry{}
	}
	h.entries[id] = append(h.entries[id], e)
}

func (h *halfDeleted) take(id volume.GroupSnapshotID) []trash.Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer delete(h.entries, id)
	return h.entries[id]
}

// lockMembers locks snapshots, all of them or none.
func (p *Pool) lockMembers(
	members []*catalog.Entry, lock func(catalog.ID) (func(), error),
) (unlock func(), err error) {
	var unlocks []func()
	unlock = func() {
		for _, u := range unlocks {
			u()
		}
	}
	for _, e := range members {
		id, err := p.snapshots.idOf(e.Dir)
		if err == nil {
			var one func()
			if one, err = lock(id); err == nil {
				unlocks = append(unlocks, one)
			}
		}
		if err != nil {
			unlock()
			return nil, err
		}
	}
	return unlock, nil
}

// checkAlone refuses a snapshot that is deleted with its group only (CSI spec, DeleteSnapshot,
// "Snapshot is part of a group"). The caller has the snapshot's lock: a group that is being made
// has it too. Errors: ErrInvalid.
func (p *Pool) checkAlone(id volume.SnapshotID) error {
	e, ok := p.snapshots.catalog.Get(id.Dir())
	if !ok {
		return nil
	}
	if g := p.snapshots.catalog.GroupOf(e); g != (volume.SnapshotGroup{}) {
		return fmt.Errorf("%w: snapshot %s is one of %d in group snapshot %s: delete the group snapshot",
			volume.ErrInvalid, id, len(g.Sources()), volume.NewGroupSnapshotID(p.id, g.Name))
	}
	return nil
}

// deletePartialGroups deletes what a crash has left of group snapshots that were being created or
// deleted. A crash leaves one of the missing snapshots in tmp/ or in trash/, or deleted in place;
// interrupted has the directories of those. Without one, deletePartialGroups deletes nothing.
func (p *Pool) deletePartialGroups(ctx context.Context, interrupted map[string]bool) {
	for _, g := range p.snapshots.catalog.PartialGroups() {
		id := volume.NewGroupSnapshotID(p.id, g.Name)
		_, members := p.snapshots.catalog.Group(id.Dir())
		log := klog.FromContext(ctx).WithValues("pool", p.opts.Name, "groupSnapshotID", id,
			"rest", len(members), "snapshots", len(g.Sources()))
		if !lacksOneOf(g, members, interrupted) {
			log.Error(nil, "A group snapshot lacks snapshots, and no crash explains it: the others are "+
				"kept until the group snapshot is deleted or taken again")
			continue
		}
		if err := p.deleteMembers(ctx, id, members); err != nil {
			log.Error(err, "The rest of a group snapshot is not deleted")
			continue
		}
		log.Info("The rest of a group snapshot is deleted, which a crash has interrupted")
	}
}

// lacksOneOf says that one of these directories is that of a missing snapshot of the group.
func lacksOneOf(
	g volume.SnapshotGroup, members []*catalog.Entry, directories map[string]bool,
) bool {
	return slices.ContainsFunc(g.MemberDirs(), func(dir string) bool {
		isThere := slices.ContainsFunc(members, func(e *catalog.Entry) bool { return e.Dir == dir })
		return directories[dir] && !isThere
	})
}
