package pool

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// othersAttribute is an extended attribute of the pool's directory: what others use of its
// filesystem, and the filesystem's size, both in bytes. Where no backend counts the blocks of
// volumes, a start can only guess that from the promises, and would promise more than the process
// before. It is advice: without it, nothing but the guess is lost.
const othersAttribute = "trusted.csi-hostpath.used-by-others"

// measureOthers estimates, at the start, how much of the filesystem others use. Where no backend
// counts the blocks of volumes, it is at least what earlier processes knew.
func (p *Pool) measureOthers(ctx context.Context) error {
	r, err := p.room()
	if err != nil {
		return err
	}
	if !p.backend.Enforces() {
		p.recallOthers(ctx, r.Size)
	}
	p.ledger.MeasureOthers(r)
	return nil
}

// recallOthers reads what earlier processes knew of what others use. What they knew of a filesystem
// of another size is of no use: the pool was copied.
func (p *Pool) recallOthers(ctx context.Context, filesystemBytes int64) {
	var text [64]byte
	n, err := unix.Fgetxattr(p.layout.Root.FD(), othersAttribute, text[:])
	if err != nil {
		if !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			klog.FromContext(ctx).Info("What others used before is not known", "pool", p.opts.Name,
				"attribute", othersAttribute, "err", err)
		}
		return
	}
	var known, size int64
	if _, err := fmt.Sscan(string(text[:n]), &known, &size); err == nil && size == filesystemBytes {
		p.ledger.RecallOthers(known)
		p.notedOthers.Store(known)
	}
}

// noteOthers notes what others use for the next process, if it has changed. That is rare: while the
// pool has volumes, the value only falls. It survives the process, and a power cut that comes after
// the filesystem's next commit.
func (p *Pool) noteOthers(filesystemBytes int64) {
	if p.backend.Enforces() {
		return
	}
	others := p.ledger.Others()
	if p.notedOthers.Swap(others) == others {
		return
	}
	// A filesystem without such attributes keeps nothing.
	_ = unix.Fsetxattr(p.layout.Root.FD(), othersAttribute, fmt.Append(nil, others, filesystemBytes), 0)
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
			"pool", p.opts.Name)
		return
	}
	p.ledger.MeasureOthersAgain(r, unwritten)
}
