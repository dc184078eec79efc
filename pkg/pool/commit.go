package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// dataMaker says how the data of a new volume or snapshot is made.
type dataMaker[V any] struct {
	// make makes the data in d and sets quota ID and sizes in v, also on failure: parts of the data
	// may remain.
	make func(ctx context.Context, d openat.Dir, v *V) (*os.File, error)
	// isCopy: after a failure, the remaining parts may take all promised bytes.
	isCopy bool
}

// leftBytes returns how many bytes of the disk the remaining parts may take after a failure.
func (m dataMaker[V]) leftBytes(made *catalog.Entry) int64 {
	if m.isCopy {
		return made.PromisedBytes
	}
	return 0
}

// create makes a volume or a snapshot that does not exist yet: it reserves the bytes, builds under
// tmp/, renames the directory into the kind's directory, syncs, and enters it in the catalog. If
// create succeeds, the volume or snapshot survives a power cut; after an error it does not exist.
// The caller has the exclusive lock of the name. Errors: ErrNoSpace; ErrBusy while a deleted entry
// of that name is still being purged in place; ErrCorrupt when an unknown entry has that name.
func (k *kind[V]) create(
	ctx context.Context, id catalog.ID, v V, m dataMaker[V],
) (_ V, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("create %s %s in %s: %w", k.noun, id, k.pool.nameAndPath(), err)
		}
	}()
	if err := trash.CheckNotDeleted(k.dir, id.Dir()); err != nil {
		return v, err
	}
	if err := k.pool.reserve(k.pack(v).PromisedBytes); err != nil {
		return v, err
	}
	failpoint.Here(k.failpoints.reserved)
	building := trash.UniqueName(k.prefix + id.Dir())
	v, err = k.build(ctx, building, v, m)
	made := k.pack(v)
	if err == nil {
		failpoint.Here(k.failpoints.built)
		err = k.renameIn(building, made.Dir)
	}
	if err != nil {
		k.discard(building, made, m.leftBytes(made))
		return v, err
	}
	failpoint.Here(k.failpoints.renamed)
	if err := k.syncRenames(); err != nil {
		return v, k.undoCreate(made, err)
	}
	k.catalog.Put(made)
	failpoint.Here(k.failpoints.indexed)
	return v, nil
}

// build makes everything that a volume or a snapshot consists of; all of it is durable, except the
// final name. Also on failure, the returned value has the bytes that the ledger counts and the
// quota ID.
func (k *kind[V]) build(ctx context.Context, building string, v V, m dataMaker[V]) (V, error) {
	if err := ctx.Err(); err != nil {
		return v, err
	}
	d, err := k.pool.layout.Tmp.Mkdir(building)
	if err != nil {
		return v, err
	}
	defer d.Close()
	failpoint.Here(k.failpoints.directoryMade)
	data, err := m.make(ctx, d, &v)
	if err != nil {
		return v, err
	}
	defer data.Close()
	failpoint.Here(k.failpoints.dataMade)
	return v, errors.Join(k.complete(d, data, v), ctx.Err())
}

// complete adds the record to the data, and makes both durable.
func (k *kind[V]) complete(d openat.Dir, data *os.File, v V) error {
	record, err := k.encode(v)
	if err != nil {
		return err
	}
	if err := d.WriteFile(k.recordFile, record, k.pool.commits.SyncFile); err != nil {
		return err
	}
	failpoint.Here(k.failpoints.recordWritten)
	return k.syncBuilt(d, data)
}

// syncBuilt makes durable what the record's fsync did not: nothing, if all metadata goes through
// one ordered journal. (The content of a copy is durable already.)
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

// renameIn renames a built directory into the kind's directory. Errors: ErrCorrupt when the name is
// taken.
func (k *kind[V]) renameIn(building, dirName string) error {
	err := k.pool.layout.Tmp.RenameNoReplace(building, k.dir, dirName)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf(
			"%w: %s/%s was put there while the driver ran: restart the driver to adopt it, or take it away",
			volume.ErrCorrupt, k.dir.Name(), dirName)
	}
	return err
}

// discard queues an unfinished directory for the purge. The purger removes it from tmp/, and waits
// where releasing a quota takes time. The bytes that half a copy may take of the disk stay counted
// until then.
func (k *kind[V]) discard(building string, made *catalog.Entry, leftBytes int64) {
	p := k.pool
	p.ledger.Release(made.PromisedBytes - leftBytes)
	p.ledger.MoveToTrash(leftBytes)
	p.trash.Queue(trash.Entry{
		In: p.layout.Tmp, Name: building, QuotaID: made.QuotaID, Bytes: leftBytes,
		Uncharge: p.uncharger(made.SourceAccount(), leftBytes),
	})
}

// undoCreate deletes what was renamed in, when the fsync after the rename has failed. No
// caller has been told of it. If the deletion fails too, the entry stays in the catalog, and the
// next call for that name syncs again.
func (k *kind[V]) undoCreate(made *catalog.Entry, failed error) error {
	k.catalog.Put(made)
	taken, err := k.moveToTrash(made)
	if err == nil {
		k.pool.trash.QueueFailed(taken)
	}
	return errors.Join(failed, err)
}

// syncRenames makes renames from tmp/ into the kind's directory durable.
func (k *kind[V]) syncRenames() error { return k.pool.commits.SyncFile(k.dir.File) }
