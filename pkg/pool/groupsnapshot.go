package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/job"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// A group snapshot is several snapshots that show one moment. It has no record of its own: the
// record of each snapshot names the whole group. The group exists if and only if all of its
// snapshots do. So a crash between the renames that create it, or that delete it, leaves a partial
// group, which does not exist: the next start deletes it, and so does the repeated request. A group
// that lacks a snapshot for another reason (an older driver, fsck, an incomplete backup) does not
// exist either, but its other snapshots may be all that is left of the data: no start deletes them.

// CreateGroupSnapshot takes snapshots of several volumes of the pool, as all of them are at one
// moment, or returns those of that name if they are of these volumes. When it returns, all of them
// survive a power cut; after an error there is none. A call that takes longer than the context goes
// on, and the same call joins it. Errors: those of CreateSnapshot; ErrPrecondition when the volumes
// cannot be copied at one moment, ErrInUse when their writers cannot be held for as long as that
// takes.
func (p *Pool) CreateGroupSnapshot(
	ctx context.Context, req volume.GroupSnapshotRequest,
) (volume.GroupSnapshot, error) {
	id := volume.NewGroupSnapshotID(p.id, req.Group.Name)
	return job.Run(ctx, p.jobs.Jobs, "group snapshot "+id.String(), req,
		func(ctx context.Context, progress *copytree.Progress) (volume.GroupSnapshot, error) {
			return p.createGroupSnapshot(ctx, id, req, progress)
		})
}

// createGroupSnapshot does the work of CreateGroupSnapshot inside the copy job.
func (p *Pool) createGroupSnapshot(
	ctx context.Context, id volume.GroupSnapshotID, req volume.GroupSnapshotRequest,
	progress *copytree.Progress,
) (volume.GroupSnapshot, error) {
	unlock, err := p.groupLocks.Lock(id)
	if err != nil {
		return volume.GroupSnapshot{}, err
	}
	defer unlock()
	sources := req.Group.Sources()
	if found, exists, err := p.existingGroup(ctx, id, req.Group); exists || err != nil {
		return found, errors.Join(err, p.applyAllCharges(sources))
	}
	done, err := p.admitSnapshots(sources)
	if err != nil {
		return volume.GroupSnapshot{}, err
	}
	defer done()
	g, err := p.beginGroup(ctx, req, progress)
	if err != nil {
		return volume.GroupSnapshot{}, err
	}
	defer g.end()
	if err := g.create(ctx); err != nil {
		return volume.GroupSnapshot{}, errors.Join(
			fmt.Errorf("create group snapshot %s in %s: %w", id, p.nameAndPath(), err),
			p.applyAllCharges(sources))
	}
	return volume.GroupSnapshot{ID: id, Snapshots: g.snapshots()}, p.applyAllCharges(sources)
}

// existingGroup returns the group snapshot of an ID, if there is one, and deletes what a crash or
// an error has left of one. The caller has the group's lock. An earlier call may have failed before
// its fsync, so existingGroup syncs again. Errors: ErrIncompatible when it is of other volumes;
// ErrCorrupt when one of its snapshots is damaged.
func (p *Pool) existingGroup(
	ctx context.Context, id volume.GroupSnapshotID, want volume.SnapshotGroup,
) (_ volume.GroupSnapshot, exists bool, err error) {
	found, members := p.snapshots.catalog.Group(id.Dir())
	switch {
	case len(members) == 0:
		return volume.GroupSnapshot{}, false, nil
	case len(members) < len(found.Sources()):
		return volume.GroupSnapshot{}, false, p.deleteMembers(ctx, id, members)
	case found != want:
		return volume.GroupSnapshot{}, true, fmt.Errorf(
			"%w: group snapshot %s has the name %q and is of the volumes %v; requested: %q of %v",
			volume.ErrIncompatible, id, found.Name, found.Sources(), want.Name, want.Sources())
	}
	s, err := p.groupOf(id, members)
	if err != nil {
		return s, true, err
	}
	return s, true, p.snapshots.syncRenames()
}

// groupOf is the group snapshot of these entries. Errors: ErrCorrupt when one of them is damaged.
func (p *Pool) groupOf(
	id volume.GroupSnapshotID, members []*catalog.Entry,
) (volume.GroupSnapshot, error) {
	s := volume.GroupSnapshot{ID: id, Snapshots: p.snapshots.unpackAll(members)}
	for _, e := range members {
		if err := e.Damaged(); err != nil {
			return s, fmt.Errorf("group snapshot %s: %w", id, err)
		}
	}
	return s, nil
}

// GetGroupSnapshot returns a group snapshot. snapshots are the IDs that the caller expects in it,
// or none. Errors: ErrNotFound, also for one that is not whole; ErrInvalid when it has other
// snapshots. With ErrCorrupt, when one of its snapshots is damaged, it returns the group snapshot.
func (p *Pool) GetGroupSnapshot(
	id volume.GroupSnapshotID, snapshots []string,
) (volume.GroupSnapshot, error) {
	g, members := p.snapshots.catalog.Group(id.Dir())
	if len(members) == 0 || len(members) < len(g.Sources()) || id.Pool() != p.id {
		return volume.GroupSnapshot{}, fmt.Errorf("%w: group snapshot %s is not in pool %s",
			volume.ErrNotFound, id, p.opts.Name)
	}
	if err := g.CheckMembers(p.id, snapshots); err != nil {
		return volume.GroupSnapshot{}, err
	}
	return p.groupOf(id, members)
}

// admitSnapshots admits one more snapshot of each volume, or none. Errors: those of admitSnapshot.
func (p *Pool) admitSnapshots(sources []volume.ID) (done func(), err error) {
	var all []func()
	done = func() {
		for _, d := range all {
			d()
		}
	}
	for _, source := range sources {
		d, err := p.admitSnapshot(source)
		if err != nil {
			done()
			return nil, err
		}
		all = append(all, d)
	}
	return done, nil
}

func (p *Pool) applyAllCharges(sources []volume.ID) error {
	var errs []error
	for _, source := range sources {
		errs = append(errs, p.applyCharges(source))
	}
	return errors.Join(errs...)
}
