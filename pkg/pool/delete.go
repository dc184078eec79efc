package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Delete takes the volume away; an absent one is no error. Its cost does not depend on what the volume holds: the data
// is purged in the background, and only then is its space available again. When it returns, the volume stays deleted after a
// power cut. The caller has made sure that the volume is not published.
func (p *Pool) Delete(ctx context.Context, id volume.ID) error {
	return p.delete(ctx, id, deletion{claims: &p.index.claims, from: p.volumes, take: func() (discarded, bool, error) {
		e, ok := p.index.get(id.Dir())
		if !ok {
			return discarded{}, false, nil
		}
		thrown, err := p.take(e)
		return thrown, true, err
	}})
}

// deletion is what differs between volumes and snapshots.
type deletion struct {
	claims *claims
	from   dir
	// take moves the thing to trash/ and out of the index, if it is there.
	take func() (thrown discarded, isThere bool, err error)
}

func (p *Pool) delete(ctx context.Context, id identified, what deletion) error {
	if err := what.claims.claim(id); err != nil {
		return err
	}
	defer what.claims.unclaim(id)
	p.foreground.enter()
	defer p.foreground.leave()
	if err := errors.Join(ctx.Err(), what.claims.checkUnheld(id)); err != nil {
		return err
	}
	thrown, isThere, err := what.take()
	if err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	failpoint.Here("delete.renamed")
	// Also for what is gone: whoever took it away may have died, or failed, before this.
	err = p.syncTaken(what.from)
	if isThere {
		// No purge before the fsync: a power cut must not bring back a volume with part of its data. Should the fsync have failed, the
		// purge comes later.
		p.queue(thrown, err)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	failpoint.Here("delete.durable")
	return nil
}

// take moves a volume out of volumes/ and out of the index. From here on it only ever goes further away. What it returns is to be
// queued for the purge.
func (p *Pool) take(e *entry) (discarded, error) {
	name := e.volume.ID.Dir()
	thrown := withSuffix(name)
	err := p.volumes.rename(name, p.trash, thrown)
	if errors.Is(err, os.ErrNotExist) { // removed by hand, with the driver running
		p.index.remove(name)
		p.ledger.release(e.volume.PromisedBytes())
		return discarded{name: thrown, tag: backend.Tag(e.volume.QuotaID), lookAfter: time.Now()}, nil
	}
	if errors.Is(err, unix.ENOSPC) { // trash/ itself has to grow: what it keeps for a while has to yield
		p.purger.hurry()
	}
	if err != nil {
		return discarded{}, err
	}
	p.index.remove(name)
	d := p.discard(thrown, e.volume.PromisedBytes(), e.volume.QuotaID)
	d.uncounted = e.damaged != nil
	return d, nil
}
