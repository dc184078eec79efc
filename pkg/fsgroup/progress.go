package fsgroup

import (
	"fmt"
	"sync"
)

// Progress says how far a change of group is. Its zero value is ready to use.
type Progress struct {
	mu     sync.Mutex
	counts counts
}

// counts are of entries below the root: all, those that were wrong, and those that could not be
// changed.
type counts struct{ seen, changed, skipped int64 }

func (p *Progress) add(n counts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.seen += n.seen
	p.counts.changed += n.changed
	p.counts.skipped += n.skipped
}

// String implements fmt.Stringer.
func (p *Progress) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("%d of %d files and directories changed, %d left out", p.counts.changed,
		p.counts.seen, p.counts.skipped)
}
