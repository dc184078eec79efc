package pool

import (
	"context"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
)

// measureOthers estimates, at the start, how much of the filesystem others use. Where no backend
// counts the blocks of volumes, it is at least what earlier processes knew.
func (p *Pool) measureOthers(ctx context.Context) error {
	r, err := p.room()
	if err != nil {
		return err
	}
	if !p.backend.Enforces() {
		known, err := p.layout.RecallOthers(r.Size)
		if err != nil {
			klog.FromContext(ctx).Info("What others used before is not known", "pool", p.opts.Name,
				"attribute", layout.OthersAttribute, "err", err)
		}
		p.ledger.RecallOthers(known)
		p.notedOthers.Store(known)
	}
	p.ledger.MeasureOthers(r)
	return nil
}

// noteOthers notes what others use for the next process, if it has changed. That is rare: while the
// pool has volumes, the value only falls.
func (p *Pool) noteOthers(filesystemBytes int64) {
	if p.backend.Enforces() {
		return
	}
	if others := p.ledger.Others(); p.notedOthers.Swap(others) != others {
		p.layout.NoteOthers(others, filesystemBytes)
	}
}

// measureOthersAgain is called after a purge of data without a record: measureOthers has counted
// that data as used by others.
func (p *Pool) measureOthersAgain(ctx context.Context) {
	// First: what volumes write meanwhile then makes the estimate too high, not too low.
	unwritten := p.unwrittenNow()
	r, err := p.room()
	if err != nil {
		klog.FromContext(ctx).Error(err,
			"The space that a purge has freed is not available before the next start",
			"pool", p.opts.Name, "path", p.opts.Path)
		return
	}
	p.ledger.MeasureOthersAgain(r, unwritten)
}
