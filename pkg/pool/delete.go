package pool

import (
	"context"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Delete deletes a volume; an absent volume is no error. The cost does not depend on the volume's
// content: the data is purged in the background, and its space is available again after the purge.
// When Delete returns, the volume stays deleted after a power cut. The caller has made sure that
// the volume is not published. Errors: ErrBusy while the volume is copied or changed.
func (p *Pool) Delete(ctx context.Context, id volume.ID) error {
	return p.volumes.delete(ctx, id, func() error { return nil })
}

// DeleteSnapshot deletes a snapshot, as Delete does a volume. Errors: ErrBusy while a volume is
// made from the snapshot; ErrInvalid for one of a group snapshot.
func (p *Pool) DeleteSnapshot(ctx context.Context, id volume.SnapshotID) error {
	return p.snapshots.delete(ctx, id, func() error { return p.checkAlone(id) })
}

// delete deletes what has the ID; check may refuse that, under the lock of the ID.
func (k *kind[V]) delete(ctx context.Context, id catalog.ID, check func() error) error {
	unlock, err := k.catalog.LockUnshared(id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := check(); err != nil {
		return err
	}
	k.pool.calls.Enter()
	defer k.pool.calls.Leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := k.deleteLocked(id.Dir()); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	failpoint.Here("delete.durable")
	return nil
}

func (k *kind[V]) deleteLocked(dirName string) (err error) {
	var deleted trash.Entry
	e, isThere := k.catalog.Get(dirName)
	if isThere {
		if deleted, err = k.moveToTrash(e); err != nil {
			return err
		}
	}
	failpoint.Here("delete.taken")
	// Also for an absent entry: an earlier call may have moved it away and ended before this sync.
	err = k.pool.trash.SyncDeleted(k.dir, dirName)
	switch {
	case !isThere:
	case err != nil:
		k.pool.trash.QueueFailed(deleted)
	default:
		k.pool.trash.Queue(deleted)
	}
	return err
}

// moveToTrash moves a volume or a snapshot out of its directory and out of the catalog. The entry
// is never moved back. The caller queues the returned entry for the purge.
func (k *kind[V]) moveToTrash(e *catalog.Entry) (trash.Entry, error) {
	deleted, err := k.pool.trash.Delete(k.dir, e.Dir, trash.UniqueName(k.prefix+e.Dir))
	if err != nil {
		return deleted, err
	}
	k.catalog.Remove(e.Dir)
	bytes := e.PromisedBytes
	k.pool.ledger.MoveToTrash(bytes)
	deleted.Bytes, deleted.QuotaID = bytes, e.QuotaID
	deleted.Retention = e.TrashRetention()
	deleted.Uncharge = k.pool.uncharger(e.SourceAccount(), bytes)
	deleted.Unrecorded = e.Damaged() != nil
	return deleted, nil
}
