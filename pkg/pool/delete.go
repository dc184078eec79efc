package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
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
	var thrown discarded
	e, isThere := k.catalog.Get(dirName)
	if isThere {
		if thrown, err = k.takeAway(e); err != nil {
			return err
		}
	}
	failpoint.Here("delete.taken")
	// Also for what is gone: whoever took it away may have died, or failed, before this.
	err = k.pool.syncTaken(k.dir, dirName)
	if isThere {
		// No purge before the fsync: a power cut must not bring back a volume with part of its
		// data. Should the fsync have failed, the purge comes later.
		k.pool.queue(thrown, err)
	}
	return err
}

// takeAway moves a volume or a snapshot out of its directory and out of the catalog. From here on it
// only ever goes further away. What takeAway returns is to be queued for the purge.
func (k *kind[V]) takeAway(e *entry) (discarded, error) {
	d, err := k.pool.throwAway(k.dir, e.Dir, k.prefix+e.Dir)
	if err != nil {
		return d, err
	}
	k.catalog.Remove(e.Dir)
	d = k.pool.discard(d, e.Value.promisedBytes, e.Value.quotaID)
	d.keeps, d.uncounted = k.pool.accountOf(e), e.Value.damaged() != nil
	return d, nil
}

// throwAway moves an entry of volumes/ or snapshots/ to trash/, under that name and a suffix. On a
// disk that is too full for it, the entry is buried, and all that trash/ keeps for a while has to
// yield. An entry that somebody has removed by hand is thrown away already.
func (p *Pool) throwAway(from openat.Dir, name, as string) (discarded, error) {
	d := discarded{at: p.trash, name: withSuffix(as)}
	err := from.RenameNoReplace(name, p.trash, d.name)
	if errors.Is(err, unix.ENOSPC) {
		p.purger.hurry()
		d.at, d.name = from, name
		err = bury(from, name)
	}
	if errors.Is(err, os.ErrNotExist) {
		d.at, err = p.tmp, nil // for no retention: there is nothing to keep
	}
	return d, err
}
