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
	if err := p.index.claim(id); err != nil {
		return err
	}
	defer p.index.unclaim(id)
	if err := ctx.Err(); err != nil {
		return err
	}
	// No purge before the fsync: a power cut must not bring back a volume with part of its data. Should the fsync fail, the purge
	// comes later.
	purge := func(error) {}
	if e, ok := p.index.get(id.Dir()); ok {
		thrown, err := p.take(e)
		if err != nil {
			return fmt.Errorf("delete volume %s: %w", id, err)
		}
		purge = func(failed error) { p.queue(thrown, failed) }
	}
	failpoint.Here("delete.renamed")
	// Also for a volume that is gone: whoever took it away may have died, or failed, before this.
	err := p.syncDeleted()
	purge(err)
	if err != nil {
		return fmt.Errorf("delete volume %s: %w", id, err)
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
		p.ledger.release(e.volume.CapacityBytes)
		return discarded{name: thrown, tag: backend.Tag(e.volume.QuotaID), thrown: time.Now()}, nil
	}
	if errors.Is(err, unix.ENOSPC) { // trash/ itself has to grow: what it keeps for a while has to yield
		p.purger.hurry()
	}
	if err != nil {
		return discarded{}, err
	}
	p.index.remove(name)
	return p.discard(thrown, e.volume), nil
}
