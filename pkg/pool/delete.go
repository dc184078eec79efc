package pool

import (
	"context"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Delete takes the volume away; an absent one is no error. Its cost does not depend on what the
// volume holds: the data is purged in the background, and only then is its space available again.
// When it returns, the volume stays deleted after a power cut. The caller has made sure that the
// volume is not published. Errors: ErrBusy while the volume is copied or changed.
func (p *Pool) Delete(ctx context.Context, id volume.ID) error { return p.volumes.delete(ctx, id) }

// DeleteSnapshot takes the snapshot away as Delete does a volume. Errors: ErrBusy while a volume is
// being made from it.
func (p *Pool) DeleteSnapshot(ctx context.Context, id volume.SnapshotID) error {
	return p.snapshots.delete(ctx, id)
}

func (k *kind[V]) delete(ctx context.Context, id catalog.Name) error {
	unlock, err := k.catalog.LockUnshared(id)
	if err != nil {
		return err
	}
	defer unlock()
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
	var taken trash.Entry
	e, isThere := k.catalog.Get(dirName)
	if isThere {
		if taken, err = k.takeAway(e); err != nil {
			return err
		}
	}
	failpoint.Here("delete.taken")
	// Also for what is gone: whoever took it away may have died, or failed, before this.
	err = k.pool.trash.SyncTaken(k.dir, dirName)
	switch {
	case !isThere:
	case err != nil:
		k.pool.trash.QueueFailed(taken)
	default:
		k.pool.trash.Queue(taken)
	}
	return err
}

// takeAway moves a volume or a snapshot out of its directory and out of the catalog. From here on
// it only ever goes further away. What takeAway returns is to be queued for the purge.
func (k *kind[V]) takeAway(e *entry) (trash.Entry, error) {
	taken, err := k.pool.trash.Take(k.dir, e.Dir, withSuffix(k.prefix+e.Dir))
	if err != nil {
		return taken, err
	}
	k.catalog.Remove(e.Dir)
	bytes := e.Value.promisedBytes
	k.pool.ledger.MoveToTrash(bytes)
	taken.Bytes, taken.QuotaID = bytes, e.Value.quotaID
	taken.Uncharge = k.pool.uncharger(accountOf(e), bytes)
	taken.Unrecorded = e.Value.damaged() != nil
	return taken, nil
}
