package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Delete takes the volume away; an absent one is no error. Its cost does not depend on what the
// volume holds: the data is purged in the background, and only then is its space available again.
// When it returns, the volume stays deleted after a power cut. The caller has made sure that the
// volume is not published.
func (p *Pool) Delete(ctx context.Context, id volume.ID) error {
	return p.delete(
		ctx,
		id,
		deletion{claims: &p.index.claims, from: p.volumes, take: func() (discarded, bool, error) {
			e, ok := p.index.get(id.Dir())
			if !ok {
				return discarded{}, false, nil
			}
			thrown, err := p.take(e)
			return thrown, true, err
		}},
	)
}

// deletion is what differs between volumes and snapshots.
type deletion struct {
	claims *claims
	from   openat.Dir
	// take moves the thing to trash/, or buries it, and takes it out of the index, if it is there.
	take func() (thrown discarded, isThere bool, err error)
}

func (p *Pool) delete(ctx context.Context, id identified, what deletion) error {
	if err := what.claims.claim(id); err != nil {
		return err
	}
	defer what.claims.unclaim(id)
	p.calls.Enter()
	defer p.calls.Leave()
	if err := errors.Join(ctx.Err(), what.claims.checkUnheld(id)); err != nil {
		return err
	}
	thrown, isThere, err := what.take()
	if err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	failpoint.Here("delete.taken")
	// Also for what is gone: whoever took it away may have died, or failed, before this.
	err = p.syncTaken(what.from, id.Dir())
	if isThere {
		// No purge before the fsync: a power cut must not bring back a volume with part of its
		// data. Should the fsync have failed, the purge comes later.
		p.queue(thrown, err)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	failpoint.Here("delete.durable")
	return nil
}

// take moves a volume out of volumes/ and out of the index. From here on it only ever goes further
// away. What it returns is to be queued for the purge.
func (p *Pool) take(e *entry) (discarded, error) {
	name := e.volume.ID.Dir()
	d, err := p.throwAway(p.volumes, name, name)
	if err != nil {
		return d, err
	}
	p.index.remove(name)
	d = p.discard(d, e.volume.PromisedBytes(), e.volume.QuotaID)
	d.uncounted = e.damaged != nil
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
