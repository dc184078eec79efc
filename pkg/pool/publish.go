package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// making is how the data of something new comes about.
type making[V any] struct {
	// data makes the data in the directory of what is built, and says in the value what became of
	// it: also on failure, when something may be left.
	data func(ctx context.Context, d openat.Dir, v *V) (*os.File, error)
	// isCopy: what a failure leaves may take all bytes that are promised.
	isCopy bool
}

// leftBytes is how much of the disk may be taken by what a failure has left.
func (m making[V]) leftBytes(made *entry) int64 {
	if m.isCopy {
		return made.Value.promisedBytes
	}
	return 0
}

// publish makes a volume or a snapshot that is not there yet: it reserves the bytes, builds under
// tmp/, renames into place, syncs, and enters it in the catalog. When it returns without an error,
// what it made survives a power cut; with an error nothing is there. The caller has the exclusive
// lock of the name. Errors: ErrNoSpace; ErrBusy while something of that name is still being purged
// in its place; ErrCorrupt when somebody else has put something there.
func (k *kind[V]) publish(ctx context.Context, v V, m making[V]) (V, error) {
	wanted := k.pack(v)
	id, err := k.nameOf(wanted.Dir)
	if err != nil {
		return v, err
	}
	if err := checkNotInPlace(k.dir, id); err != nil {
		return v, err
	}
	if v, err = k.reserveAndBuild(ctx, v, wanted, m); err != nil {
		return v, fmt.Errorf("create %s %s in pool %s: %w", k.word, id, k.pool.opts.Name, err)
	}
	return v, nil
}

func (k *kind[V]) reserveAndBuild(ctx context.Context, v V, wanted *entry, m making[V]) (V, error) {
	if err := k.pool.reserve(wanted.Value.promisedBytes); err != nil {
		return v, err
	}
	failpoint.Here(k.points.reserved)
	building := withSuffix(k.prefix + wanted.Dir)
	v, err := k.build(ctx, building, v, m)
	made := k.pack(v)
	if err == nil {
		failpoint.Here(k.points.built)
		err = k.place(building, made.Dir)
	}
	if err != nil {
		k.abandon(building, made, m.leftBytes(made))
		return v, err
	}
	failpoint.Here(k.points.renamed)
	if err := k.pool.syncPlaced(k.dir); err != nil {
		return v, k.withdraw(made, err)
	}
	k.catalog.Put(made)
	failpoint.Here(k.points.indexed)
	return v, nil
}

// build makes everything that a volume or a snapshot consists of, durable but for its final name.
// What it returns says also on failure what the ledger counts and under which quota ID.
func (k *kind[V]) build(ctx context.Context, building string, v V, m making[V]) (V, error) {
	if err := ctx.Err(); err != nil {
		return v, err
	}
	d, err := k.pool.tmp.Mkdir(building)
	if err != nil {
		return v, err
	}
	defer d.Close()
	failpoint.Here(k.points.directoryMade)
	data, err := m.data(ctx, d, &v)
	if err != nil {
		return v, err
	}
	defer data.Close()
	failpoint.Here(k.points.dataMade)
	record, err := k.encode(v)
	if err != nil {
		return v, err
	}
	if err := d.WriteFile(k.recordFile, record, k.pool.commits.SyncFile); err != nil {
		return v, err
	}
	failpoint.Here(k.points.recordWritten)
	return v, errors.Join(k.syncBuilt(d, data), ctx.Err())
}

// syncBuilt makes durable what the record's fsync has not: nothing, where all metadata goes through
// one journal in order. (The content of a copy is durable already.)
func (k *kind[V]) syncBuilt(d openat.Dir, data *os.File) error {
	if k.pool.ordered {
		return nil
	}
	if k.syncsData {
		if err := data.Sync(); err != nil {
			return err
		}
	}
	return d.Sync()
}

// place renames what has been built into the kind's directory. Errors: ErrCorrupt when the place is
// taken.
func (k *kind[V]) place(building, dirName string) error {
	err := k.pool.tmp.RenameNoReplace(building, k.dir, dirName)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf(
			"%w: %s/%s was put there while the driver ran: restart the driver to adopt it, or take it away",
			volume.ErrCorrupt, k.dir.Name(), dirName)
	}
	return err
}

// abandon gives up what has been built. The purger removes it where it is, and has the patience
// that a quota may need. What half a copy may take of the disk stays counted until then.
func (k *kind[V]) abandon(building string, made *entry, leftBytes int64) {
	p := k.pool
	p.ledger.Release(made.Value.promisedBytes - leftBytes)
	p.ledger.MoveToTrash(leftBytes)
	p.trash.Queue(trash.Entry{
		In: p.tmp, Name: building, QuotaID: made.Value.quotaID, Bytes: leftBytes,
		Uncharge: p.uncharger(accountOf(made), leftBytes),
	})
}

// withdraw takes away what is in place, but perhaps not after a power cut: nobody has been told of
// it. If it cannot be taken away either, it stays in the catalog, and the next call syncs it.
func (k *kind[V]) withdraw(made *entry, failed error) error {
	k.catalog.Put(made)
	taken, err := k.takeAway(made)
	if err == nil {
		k.pool.trash.QueueFailed(taken)
	}
	return errors.Join(failed, err)
}

// syncPlaced makes renames from tmp/ into volumes/ or snapshots/ durable.
func (p *Pool) syncPlaced(to openat.Dir) error { return p.commits.SyncFile(to.File) }
