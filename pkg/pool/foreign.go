package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
)

// foreignAttribute is an extended attribute of the pool's directory: what others use of its
// filesystem, and the filesystem's size, both in bytes. Where no backend counts what volumes hold, a
// start can only guess that from the promises, and would promise more than the process before. It
// is advice: without it, nothing but the guess is lost.
const foreignAttribute = "trusted.csi-hostpath.used-by-others"

// foreignUse is the part of a pool's filesystem that other users occupy, in bytes.
type foreignUse struct {
	mu    sync.Mutex
	bytes int64
	// known is what earlier processes knew; 0 where the backend counts what volumes hold.
	known int64
	// noted is what foreignAttribute has.
	noted int64
	// unwritten is how many promised bytes were not written at the start, as far as a backend counts
	// them.
	unwritten int64
}

func (f *foreignUse) set(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes = bytes
}

// atMost lowers the value to bytes, if it is larger, and returns the value: the first measurement
// may include data that was being freed.
func (f *foreignUse) atMost(bytes int64) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes = min(f.bytes, bytes)
	return f.bytes
}

// atLeastKnown raises a measurement to what earlier processes knew. used bounds it: others may have
// removed something.
func (f *foreignUse) atLeastKnown(measured, used int64) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(measured, min(f.known, used))
}

// isNoted says whether foreignAttribute has the value; the caller notes it if not.
func (f *foreignUse) isNoted(bytes int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	isNoted := f.noted == bytes
	f.noted = bytes
	return isNoted
}

func (f *foreignUse) addUnwritten(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unwritten = ledger.Sum(f.unwritten, bytes)
}

func (f *foreignUse) unwrittenAtStart() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unwritten
}

// recallForeign reads what earlier processes knew of what others use. What they knew of a
// filesystem of another size is of no use: the pool was copied.
func (p *Pool) recallForeign(ctx context.Context) error {
	if p.backend.Enforces() {
		return nil
	}
	var text [64]byte
	n, err := unix.Fgetxattr(p.layout.Root.FD(), foreignAttribute, text[:])
	if err != nil {
		if !errors.Is(err, unix.ENODATA) {
			klog.FromContext(ctx).Info("What others used before is not known", "pool", p.opts.Name,
				"attribute", foreignAttribute, "err", err)
		}
		return nil
	}
	r, err := p.room()
	if err != nil {
		return err
	}
	var known, size int64
	if _, err := fmt.Sscan(string(text[:n]), &known, &size); err == nil && size == r.Size {
		p.foreign.known, p.foreign.noted = known, known
	}
	return nil
}

// noteForeign keeps what others use for the next process, if it has changed. That is rare: while the
// pool has volumes, the value only falls. It survives the process, and a power cut that comes after
// the filesystem's next commit.
func (p *Pool) noteForeign(r ledger.Room) {
	if p.backend.Enforces() || p.foreign.isNoted(r.Foreign) {
		return
	}
	// A filesystem without such attributes keeps nothing.
	_ = unix.Fsetxattr(p.layout.Root.FD(), foreignAttribute, fmt.Append(nil, r.Foreign, r.Size), 0)
}
