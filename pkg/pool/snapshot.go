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
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copyjob"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// snapshotEntryPrefix begins the entries of snapshots in tmp/ and trash/, which they share with
// volumes. No volume's begins so.
const snapshotEntryPrefix = "s-"

// CreateSnapshot takes a snapshot, or returns the one of that name if it is of that volume. When it
// returns a snapshot, that survives a power cut. A copy that takes longer than the context goes on,
// and the same call joins it. Errors: ErrNotFound for the volume, ErrIncompatible when the name is
// taken by a snapshot of another one, ErrNoSpace, ErrCorrupt when the name belongs to a damaged
// snapshot, ErrBusy while the copy goes on, or while name or volume are being changed.
func (p *Pool) CreateSnapshot(
	ctx context.Context, req volume.SnapshotRequest,
) (volume.Snapshot, error) {
	id := volume.NewSnapshotID(p.id, req.Name)
	return copyjob.Run(ctx, p.jobs, "snapshot "+id.String(), req,
		func(ctx context.Context, progress *copytree.Progress) (volume.Snapshot, error) {
			return p.takeSnapshot(ctx, id, req, progress)
		})
}

// takeSnapshot is the work of CreateSnapshot.
func (p *Pool) takeSnapshot(
	ctx context.Context, id volume.SnapshotID, req volume.SnapshotRequest, progress *copytree.Progress,
) (volume.Snapshot, error) {
	if err := p.snapshotIndex.claim(id); err != nil {
		return volume.Snapshot{}, err
	}
	defer p.snapshotIndex.unclaim(id)
	if e, ok := p.snapshotIndex.get(id.Dir()); ok {
		if err := sameSnapshot(e, req); err != nil {
			return volume.Snapshot{}, err
		}
		// as for a repeated Create: whatever failed after the rename
		return e.Snapshot, errors.Join(p.syncPlaced(p.snapshots), p.relimit(e.Source))
	}
	if err := checkUnburied(p.snapshots, id); err != nil {
		return volume.Snapshot{}, err
	}
	from, err := p.holdInTurn(ctx, func() (*origin, error) { return p.holdVolume(req.Source) })
	if err != nil {
		return volume.Snapshot{}, err
	}
	defer from.release()
	s := volume.Snapshot{
		ID: id, Name: req.Name, Source: req.Source, SourceCreated: from.created, Owner: req.Owner,
		Spec: from.spec, RestoreBytes: from.restoreBytes,
		// The most that it is known to hold before it is made.
		HeldBytes: ledger.Sum(from.restoreBytes, from.sharedBytes),
		Created:   time.Now().UTC(),
	}
	if err := p.reserve(s.HeldBytes); err != nil {
		return volume.Snapshot{}, fmt.Errorf("snapshot %s in pool %s: %w", id, p.opts.Name, err)
	}
	failpoint.Here("snapshot.reserved")
	s, err = p.commitSnapshot(ctx, s, from, progress)
	if err != nil {
		// What is left keeps something of its source until it is purged.
		return volume.Snapshot{}, errors.Join(
			fmt.Errorf("snapshot %s of volume %s in pool %s: %w", id, req.Source, p.opts.Name, err),
			p.relimit(req.Source),
		)
	}
	p.snapshotIndex.put(SnapshotEntry{Snapshot: s})
	failpoint.Here("snapshot.indexed")
	return s, p.relimit(s.Source)
}

// sameSnapshot says whether an existing snapshot answers a request of the same name (CSI spec,
// CreateSnapshot: ALREADY_EXISTS).
func sameSnapshot(e SnapshotEntry, req volume.SnapshotRequest) error {
	switch {
	case e.Damaged != nil:
		return e.Damaged
	case e.Name != req.Name:
		return fmt.Errorf("%w: snapshot %s has the name %q, asked for is %q", volume.ErrIncompatible,
			e.ID, e.Name, req.Name)
	case e.Source != req.Source:
		return fmt.Errorf("%w: snapshot %s is of volume %s, asked for is one of volume %s",
			volume.ErrIncompatible, e.ID, e.Source, req.Source)
	default:
		return nil
	}
}

// commitSnapshot builds the snapshot under tmp/ and renames it into place. It takes over the
// ledger's reservation: on failure the bytes go to the trash with what was built.
func (p *Pool) commitSnapshot(
	ctx context.Context, s volume.Snapshot, from *origin, progress *copytree.Progress,
) (volume.Snapshot, error) {
	building := withSuffix(snapshotEntryPrefix + s.ID.Dir())
	s, err := p.buildSnapshot(ctx, building, s, from, progress)
	if err == nil {
		failpoint.Here("snapshot.built")
		err = p.tmp.RenameNoReplace(building, p.snapshots, s.ID.Dir())
	}
	if err != nil {
		p.abandon(building, discarded{bytes: s.HeldBytes, quotaID: s.QuotaID, keeps: keptBy(s)})
	}
	if errors.Is(err, os.ErrExist) {
		return s, fmt.Errorf(
			"%w: snapshots/%s was put there while the driver ran: restart the driver to adopt it, or take it away",
			volume.ErrCorrupt,
			s.ID.Dir(),
		)
	}
	if err != nil {
		return s, err
	}
	failpoint.Here("snapshot.renamed")
	if err := p.syncPlaced(p.snapshots); err != nil {
		// In place, but perhaps not after a power cut: nobody was told of it, so it goes.
		e := SnapshotEntry{Snapshot: s}
		p.snapshotIndex.put(e) // should that fail too, a retry finds it, and syncs
		thrown, taken := p.takeAwaySnapshot(e)
		if taken == nil {
			p.queue(thrown, err)
		}
		return s, errors.Join(err, taken)
	}
	return s, nil
}

// buildSnapshot makes everything a snapshot consists of, durable but for its final name. What it
// returns has the quota ID and what the ledger counts, also on failure.
func (p *Pool) buildSnapshot(
	ctx context.Context, building string, s volume.Snapshot, from *origin, progress *copytree.Progress,
) (volume.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return s, err
	}
	d, err := p.tmp.Mkdir(building)
	if err != nil {
		return s, err
	}
	defer d.Close()
	failpoint.Here("snapshot.directory-made")
	data, err := p.freeze(ctx, d, &s, from, progress)
	if err != nil {
		return s, err
	}
	defer data.Close()
	failpoint.Here("snapshot.data-made")
	encoded, err := record.EncodeSnapshot(s)
	if err != nil {
		return s, err
	}
	if err := d.WriteFile(record.SnapshotFile, encoded, p.commits.SyncFile); err != nil {
		return s, err
	}
	failpoint.Here("snapshot.record-written")
	if err := d.Sync(); err != nil {
		return s, err
	}
	return s, ctx.Err()
}

// freeze makes the snapshot's data, and says in the snapshot how it counts: the filesystem's own
// snapshot where it has them, else a copy.
func (p *Pool) freeze(
	ctx context.Context, d openat.Dir, s *volume.Snapshot, from *origin, progress *copytree.Progress,
) (*os.File, error) {
	if from.spec.IsImage() {
		return p.freezeImage(ctx, d, s, from, progress)
	}
	lower, err := p.raise(s.Source)
	if err != nil {
		return nil, err
	}
	defer lower()
	made, err := p.cloner().Snapshot(backend.Source{Dir: from.dir.File, QuotaID: from.quotaID}, d.File)
	if errors.Is(err, errors.ErrUnsupported) {
		made, held, err := p.duplicate(ctx, d, from,
			bound{bytes: s.RestoreBytes, inodes: from.spec.Inodes}, progress)
		s.QuotaID = made.QuotaID
		if err == nil {
			p.replaceReserved(&s.HeldBytes, held)
			s.RestoreBytes = p.sizeSince(s)
		}
		return made.Data, err
	}
	if err != nil {
		return nil, err
	}
	s.QuotaID = made.QuotaID
	if made.WrittenBytes > 0 {
		p.replaceReserved(&s.HeldBytes, ledger.Sum(made.WrittenBytes, from.sharedBytes))
	}
	if p.cloner().ChargesWriter() {
		s.SourceQuotaID = from.quotaID
		p.snapshotIndex.keep(keptBy(*s), s.HeldBytes)
	}
	s.RestoreBytes = p.sizeSince(s)
	return made.Data, nil
}

// sizeSince is at least the size for which a directory was filled until it was copied: it may have
// been expanded meanwhile.
func (p *Pool) sizeSince(s *volume.Snapshot) int64 {
	v, err := p.Get(s.Source)
	if err != nil {
		return s.RestoreBytes
	}
	return max(s.RestoreBytes, v.CapacityBytes)
}

// replaceReserved counts bytes instead of what was reserved. It may be more: what enforces no sizes
// can hold more.
func (p *Pool) replaceReserved(reserved *int64, bytes int64) {
	p.ledger.Replace(*reserved, bytes)
	*reserved = bytes
}

// GetSnapshot is one snapshot. Errors: ErrNotFound; ErrCorrupt when it is there and its record
// makes no sense.
func (p *Pool) GetSnapshot(id volume.SnapshotID) (volume.Snapshot, error) {
	e, ok := p.snapshotIndex.get(id.Dir())
	if !ok || id.Pool() != p.id {
		return volume.Snapshot{}, fmt.Errorf("%w: snapshot %s is not in pool %s", volume.ErrNotFound, id,
			p.opts.Name)
	}
	return e.Snapshot, e.Damaged
}

// ListSnapshots is at most limit snapshots in the order of their IDs, from the first one whose
// directory comes after the given one. Its cost is that of the page.
func (p *Pool) ListSnapshots(afterDir string, limit int) []SnapshotEntry {
	return p.snapshotIndex.after(afterDir, limit)
}

// ListSnapshotsOf is ListSnapshots for the snapshots of one volume, which need not be there any
// more.
func (p *Pool) ListSnapshotsOf(source volume.ID, afterDir string, limit int) []SnapshotEntry {
	return p.snapshotIndex.ofSourceAfter(source, afterDir, limit)
}

// DeleteSnapshot takes the snapshot away as Delete does a volume. Errors: ErrBusy while a volume is
// being made from it.
func (p *Pool) DeleteSnapshot(ctx context.Context, id volume.SnapshotID) error {
	return p.delete(
		ctx,
		id,
		deletion{
			claims: &p.snapshotIndex.claims,
			from:   p.snapshots,
			take: func() (discarded, bool, error) {
				e, ok := p.snapshotIndex.get(id.Dir())
				if !ok {
					return discarded{}, false, nil
				}
				thrown, err := p.takeAwaySnapshot(e)
				return thrown, true, err
			},
		},
	)
}

// takeAwaySnapshot moves a snapshot out of snapshots/ and out of the index. What it returns is to
// be queued for the purge.
func (p *Pool) takeAwaySnapshot(e SnapshotEntry) (discarded, error) {
	name := e.ID.Dir()
	d, err := p.throwAway(p.snapshots, name, snapshotEntryPrefix+name)
	if err != nil {
		return d, err
	}
	p.snapshotIndex.remove(e)
	d = p.discard(d, e.HeldBytes, e.QuotaID)
	d.keeps, d.uncounted = keptBy(e.Snapshot), e.Damaged != nil
	return d, nil
}
