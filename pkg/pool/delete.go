package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
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
	e, ok := p.index.get(id.Dir())
	if !ok {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	thrown, err := p.throwIn(p.volumes, id.Dir())
	if errors.Is(err, os.ErrNotExist) { // removed by hand, with the driver running
		p.index.remove(id.Dir())
		p.ledger.release(e.volume.CapacityBytes)
		p.purger.add(discarded{name: withSuffix(id.Dir()), tag: backend.Tag(e.volume.QuotaID)})
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete volume %s: %w", id, err)
	}
	p.index.remove(id.Dir())
	p.discard(thrown, e.volume)
	return nil
}

// discard hands an entry of trash/ to the purger, with the bytes that it holds in the ledger.
func (p *Pool) discard(thrown string, v volume.Volume) {
	p.ledger.discard(v.CapacityBytes)
	p.purger.add(discarded{
		name:  thrown,
		bytes: v.CapacityBytes,
		tag:   backend.Tag(v.QuotaID),
		due:   time.Now().Add(p.opts.TrashRetention),
	})
}
