package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// groupCopy is a group snapshot that is being taken, with the shared locks of its sources.
type groupCopy struct {
	*copying.Copy

	pool    *Pool
	members []*member
}

// member is one snapshot of it.
type member struct {
	from     *copySource
	snapshot volume.Snapshot
	building string // its name in tmp/
	// dir is open there, and so is data, until create returns.
	dir     openat.Dir
	data    *os.File
	renamed bool
}

// beginGroup waits until this pool may make a copy, and only then locks the sources, as beginCopy
// does. Errors: those of lockSourceVolume and of copying.Copier.CheckTogether.
func (p *Pool) beginGroup(
	ctx context.Context, req volume.GroupSnapshotRequest, progress *copytree.Progress,
) (*groupCopy, error) {
	first, err := p.lockMembersSources(req)
	if err != nil {
		return nil, err
	}
	sources := first.sources()
	first.release()
	begun, err := p.copier.BeginTogether(ctx, sources, progress)
	if err != nil {
		return nil, err
	}
	g, err := p.lockMembersSources(req)
	if err != nil {
		begun.End()
		return nil, err
	}
	g.Copy = begun
	progress.Expect(g.contentBytes())
	return g, nil
}

// lockMembersSources locks the sources of a group that can be copied at one moment.
func (p *Pool) lockMembersSources(req volume.GroupSnapshotRequest) (*groupCopy, error) {
	g := &groupCopy{pool: p}
	now := time.Now().UTC()
	for _, source := range req.Group.Sources() {
		from, err := p.lockSourceVolume(source)
		if err != nil {
			g.release()
			return nil, err
		}
		name := req.Group.MemberName(source)
		s := from.newSnapshot(volume.NewSnapshotID(p.id, name), name, req.Owner)
		s.Created, s.Group = now, req.Group
		g.members = append(g.members, &member{
			from: from, snapshot: s, building: trash.UniqueName(snapshotPrefix + s.ID.Dir()),
		})
	}
	if err := p.copier.CheckTogether(g.sources()); err != nil {
		g.release()
		return nil, err
	}
	return g, nil
}

// contentBytes is what is copied: images. The filesystem takes no time for the others.
func (g *groupCopy) contentBytes() (sum int64) {
	for _, m := range g.members {
		if m.from.Spec.IsImage() {
			sum = ledger.Sum(sum, m.from.contentBytes())
		}
	}
	return sum
}

func (g *groupCopy) sources() []copying.Source {
	sources := make([]copying.Source, len(g.members))
	for i, m := range g.members {
		sources[i] = m.from.Source
	}
	return sources
}

func (g *groupCopy) snapshots() []volume.Snapshot {
	snapshots := make([]volume.Snapshot, len(g.members))
	for i, m := range g.members {
		snapshots[i] = m.snapshot
	}
	return snapshots
}

func (g *groupCopy) entries() []*catalog.Entry {
	entries := make([]*catalog.Entry, len(g.members))
	for i, m := range g.members {
		entries[i] = catalog.NewSnapshot(m.snapshot)
	}
	return entries
}

func (g *groupCopy) release() {
	for _, m := range g.members {
		m.from.release()
	}
}

// end releases the sources and lets the next copy begin.
func (g *groupCopy) end() {
	g.release()
	g.End()
}

// create makes all snapshots, as kind.create makes one: the bytes of all are reserved before
// anything is made, and all are durable but for their names before the first is renamed. After an
// error none exists.
func (g *groupCopy) create(ctx context.Context) (err error) {
	k := g.pool.snapshots
	unlock, err := g.pool.lockMembers(g.entries(), k.catalog.Lock)
	if err != nil {
		return err
	}
	defer unlock()
	if err := g.checkNames(); err != nil {
		return err
	}
	if err := g.reserve(); err != nil {
		return err
	}
	failpoint.Here("group.reserved")
	defer g.closeFiles()
	if err := g.build(ctx); err != nil {
		return g.undo(err)
	}
	failpoint.Here("group.built")
	for _, m := range g.members {
		if err := k.renameIn(m.building, m.snapshot.ID.Dir()); err != nil {
			return g.undo(err)
		}
		m.renamed = true
		failpoint.Here("group.member-renamed")
	}
	if err := k.syncRenames(); err != nil {
		return g.undo(err)
	}
	for _, e := range g.entries() {
		k.catalog.Put(e)
	}
	failpoint.Here("group.indexed")
	return nil
}

// checkNames refuses names that something else has. Errors: ErrBusy while a deleted snapshot of
// that name is still being purged in place; ErrCorrupt when a damaged snapshot has the name;
// ErrIncompatible.
func (g *groupCopy) checkNames() error {
	k := g.pool.snapshots
	for _, m := range g.members {
		id := m.snapshot.ID
		if err := trash.CheckNotDeleted(k.dir, id.Dir()); err != nil {
			return err
		}
		if e, taken := k.catalog.Get(id.Dir()); taken {
			if err := e.Damaged(); err != nil {
				return err
			}
			return fmt.Errorf("%w: snapshot %s is in no group snapshot", volume.ErrIncompatible, id)
		}
	}
	return nil
}

// reserve promises the bytes of all snapshots, or of none.
func (g *groupCopy) reserve() error {
	var bytes int64
	for _, e := range g.entries() {
		bytes = ledger.Sum(bytes, e.PromisedBytes)
	}
	return g.pool.reserve(bytes)
}

// build makes everything that the snapshots consist of; all of it is durable, except the final
// names.
func (g *groupCopy) build(ctx context.Context) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, m := range g.members {
		if m.dir, err = g.pool.layout.Tmp.Mkdir(m.building); err != nil {
			return err
		}
	}
	failpoint.Here("group.directories-made")
	if err := g.makeData(ctx); err != nil {
		return err
	}
	failpoint.Here("group.data-made")
	for _, m := range g.members {
		if err := g.pool.snapshots.complete(m.dir, m.data, m.snapshot); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// makeData makes the data of all snapshots, as the sources are at one moment.
func (g *groupCopy) makeData(ctx context.Context) error {
	targets := make([]copying.Target, len(g.members))
	for i, m := range g.members {
		targets[i] = copying.Target{
			Dir: m.dir, Bytes: m.snapshot.RestoreBytes, Inodes: m.snapshot.Spec.Inodes,
			Allocation: volume.Sparse,
		}
	}
	made, err := g.MakeTogether(ctx, g.sources(), targets, g.clone)
	for i, m := range g.members {
		s := &m.snapshot
		s.QuotaID, m.data = made[i].QuotaID, made[i].Data
		if err == nil && made[i].Method != copying.ByFilesystem {
			g.pool.replaceReserved(&s.HeldBytes,
				ledger.OfSnapshot(made[i].OccupiedBytes, made[i].Inodes))
		}
		s.RestoreBytes = g.pool.sizeSince(s)
	}
	return err
}

// clone lets the filesystem make the data of some of the snapshots, and charges what they hold to
// their sources.
func (g *groupCopy) clone(ctx context.Context, which []int) ([]backend.Clone, error) {
	sources, dirs := make([]backend.Source, len(which)), make([]openat.Dir, len(which))
	var uncharges []func()
	defer func() {
		for _, uncharge := range uncharges {
			uncharge()
		}
	}()
	for k, i := range which {
		m := g.members[i]
		uncharge, err := g.pool.chargeInAdvance(m.snapshot.Source)
		if err != nil {
			return nil, err
		}
		uncharges = append(uncharges, uncharge)
		sources[k] = backend.Source{Dir: m.from.Dir, QuotaID: m.from.QuotaID}
		dirs[k] = m.dir
	}
	clones, err := g.pool.cloner.SnapshotTogether(ctx, sources, dirs)
	if err != nil {
		return clones, err
	}
	for k, i := range which {
		g.pool.countClone(g.members[i].from, &g.members[i].snapshot, clones[k])
	}
	return clones, nil
}

func (g *groupCopy) closeFiles() {
	for _, m := range g.members {
		if m.data != nil {
			m.data.Close()
			m.data = nil
		}
		if m.dir.File != nil {
			m.dir.Close()
			m.dir.File = nil
		}
	}
}

// undo deletes the snapshots that were renamed in, and queues the unfinished ones for the purge.
func (g *groupCopy) undo(failed error) error {
	g.closeFiles()
	k := g.pool.snapshots
	errs := []error{failed}
	for _, m := range g.members {
		made := k.pack(m.snapshot)
		if m.renamed {
			errs = append(errs, k.undoCreate(made, nil))
			continue
		}
		k.discard(m.building, made, made.PromisedBytes)
	}
	return errors.Join(errs...)
}
