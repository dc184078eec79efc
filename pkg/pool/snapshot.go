package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/job"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// CreateSnapshot takes a snapshot, or returns the one of that name if it is of that volume. When it
// returns a snapshot, that survives a power cut. A copy that takes longer than the context goes on,
// and the same call joins it. Errors: ErrNotFound for the volume, ErrIncompatible when the name is
// taken by a snapshot of another one, ErrNoSpace, ErrTooMany, ErrCorrupt when the name belongs to a
// damaged snapshot, ErrBusy while the copy goes on, or while name or volume are being changed.
func (p *Pool) CreateSnapshot(
	ctx context.Context, req volume.SnapshotRequest,
) (volume.Snapshot, error) {
	id := volume.NewSnapshotID(p.id, req.Name)
	return job.Run(ctx, p.jobs.Jobs, "snapshot "+id.String(), req,
		func(ctx context.Context, progress *copytree.Progress) (volume.Snapshot, error) {
			return p.createSnapshot(ctx, id, req, progress)
		})
}

// createSnapshot does the work of CreateSnapshot inside the copy job.
func (p *Pool) createSnapshot(
	ctx context.Context, id volume.SnapshotID, req volume.SnapshotRequest, progress *copytree.Progress,
) (volume.Snapshot, error) {
	unlock, err := p.snapshots.catalog.Lock(id)
	if err != nil {
		return volume.Snapshot{}, err
	}
	defer unlock()
	if s, exists, err := p.snapshots.existing(id, req.CheckAnsweredBy); exists {
		if err == nil {
			err = p.applyCharges(req.Source)
		}
		return s, err
	}
	done, err := p.admitSnapshot(req.Source)
	if err != nil {
		return volume.Snapshot{}, err
	}
	defer done()
	lockSource := func() (*copySource, error) { return p.lockSourceVolume(req.Source) }
	c, err := p.beginCopy(ctx, lockSource, progress)
	if err != nil {
		return volume.Snapshot{}, err
	}
	defer c.end()
	s := c.from.newSnapshot(id, req.Name, req.Owner)
	s, err = p.snapshots.create(ctx, id, s,
		dataMaker[volume.Snapshot]{make: snapshotCopy{c}.data, isCopy: true})
	// Also after a failure: an unfinished snapshot keeps blocks of its source until it is purged.
	return s, errors.Join(err, p.applyCharges(req.Source))
}

// newSnapshot is a snapshot of the source that is still to be made.
func (s *copySource) newSnapshot(
	id volume.SnapshotID, name volume.Name, owner volume.SnapshotOwner,
) volume.Snapshot {
	return volume.Snapshot{
		ID: id, Name: name, Source: s.volume, SourceCreated: s.created, Owner: owner,
		Spec: s.Spec, RestoreBytes: s.Bytes,
		FilesystemBytes: s.filesystemBytes, Formatting: s.formatting,
		// The most that the snapshot can hold, until it is made and measured.
		HeldBytes: ledger.OfSnapshot(ledger.Sum(s.Bytes, s.sharedBytes), 0),
		Created:   time.Now().UTC(),
	}
}

// admitSnapshot refuses a snapshot if its volume has as many snapshots as the options allow. The
// admitted one counts until done is called. Errors: ErrTooMany.
func (p *Pool) admitSnapshot(source volume.ID) (done func(), err error) {
	done, err = p.snapshots.catalog.AdmitChild(source.String(), p.opts.MaxSnapshotsPerVolume)
	if err != nil {
		return nil, fmt.Errorf(
			"snapshots of volume %s in pool %s: %w (maxSnapshotsPerVolume): delete one first",
			source, p.opts.Name, err)
	}
	return done, nil
}

// snapshotCopy is a copy that becomes a snapshot.
type snapshotCopy struct{ *activeCopy }

// data makes the snapshot's data, and sets its quota IDs and sizes in s.
func (c snapshotCopy) data(
	ctx context.Context, d openat.Dir, s *volume.Snapshot,
) (*os.File, error) {
	made, err := c.Make(ctx, c.from.Source, copying.Target{
		Dir: d, Bytes: s.RestoreBytes, Inodes: s.Spec.Inodes, Allocation: volume.Sparse,
		Clone: func(from backend.Source) (backend.Clone, error) { return c.clone(from, d, s) },
	})
	s.QuotaID = made.QuotaID
	if err != nil {
		return nil, err
	}
	if made.Method != copying.ByFilesystem {
		c.pool.replaceReserved(&s.HeldBytes, ledger.OfSnapshot(made.OccupiedBytes, made.Inodes))
	}
	s.RestoreBytes = c.pool.sizeSince(s)
	return made.Data, nil
}

// clone lets the filesystem make the snapshot's data, and charges what the snapshot holds to the
// source.
func (c snapshotCopy) clone(
	from backend.Source, d openat.Dir, s *volume.Snapshot,
) (backend.Clone, error) {
	p := c.pool
	uncharge, err := p.chargeInAdvance(s.Source)
	if err != nil {
		return backend.Clone{}, err
	}
	defer uncharge()
	made, err := p.cloner.Snapshot(from, d)
	if err != nil {
		return made, err
	}
	p.countClone(c.from, s, made)
	return made, nil
}

// countClone counts what a snapshot holds that the filesystem has made, and charges that to the
// source.
func (p *Pool) countClone(from *copySource, s *volume.Snapshot, made backend.Clone) {
	if made.WrittenBytes > 0 {
		held := ledger.Sum(made.WrittenBytes, from.sharedBytes)
		p.replaceReserved(&s.HeldBytes, ledger.OfSnapshot(held, 0))
	}
	if p.cloner.ChargesWriter() {
		s.SourceQuotaID = from.QuotaID
		p.accounts.Charge(catalog.NewSnapshot(*s).SourceAccount(), s.HeldBytes)
	}
}

// sizeSince returns the source's present size, or RestoreBytes if that is larger: the source may
// have been expanded during the copy.
func (p *Pool) sizeSince(s *volume.Snapshot) int64 {
	v, err := p.Get(s.Source)
	if err != nil {
		return s.RestoreBytes
	}
	return max(s.RestoreBytes, v.CapacityBytes)
}

// replaceReserved counts bytes instead of the reserved ones. It may count more: where sizes are not
// enforced, a volume can hold more than its size.
func (p *Pool) replaceReserved(reserved *int64, bytes int64) {
	p.ledger.Replace(*reserved, bytes)
	*reserved = bytes
}

// GetSnapshot returns one snapshot, without its owner: only the record has the owner. Errors:
// ErrNotFound; ErrCorrupt when the snapshot is there and its record cannot be used.
func (p *Pool) GetSnapshot(id volume.SnapshotID) (volume.Snapshot, error) {
	e, err := p.snapshots.find(id)
	if e == nil {
		return volume.Snapshot{}, err
	}
	return p.snapshots.unpack(e), err
}

// ListSnapshots returns at most limit snapshots in the order of their IDs. The first one is the one
// whose directory follows afterDir. The cost grows with the page, not with the pool. Of a snapshot
// whose record cannot be used only the ID is known (volume.Snapshot.IsDamaged).
func (p *Pool) ListSnapshots(afterDir string, limit int) []volume.Snapshot {
	return p.snapshots.page(afterDir, limit)
}

// ListSnapshotsOf returns a page of the snapshots of one volume, as ListSnapshots does. The volume
// may have been deleted.
func (p *Pool) ListSnapshotsOf(source volume.ID, afterDir string, limit int) []volume.Snapshot {
	return p.snapshots.pageOf(source.String(), afterDir, limit)
}
