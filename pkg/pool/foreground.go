package pool

import (
	"context"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
)

const (
	// yieldAtMost is how long work in the background waits for calls to end.
	yieldAtMost = 20 * time.Millisecond
	// grace is how long it then goes on whoever calls, so that the copies of a busy pool come to an
	// end.
	grace = yieldAtMost / 4
	// lately is how long after a call another one is expected.
	lately = 100 * time.Millisecond
)

// foreground counts the calls that somebody waits for. What nobody waits for at this moment, a copy
// or a purge, asks between two files whether it may go on: a filesystem's journal and a disk's
// queue know no priorities, and what has been put there is in the way of whoever comes next. Its
// zero value is ready.
type foreground struct {
	mu    sync.Mutex
	calls int
	calm  chan struct{} // closed when the last call ends; nil when there is none
	last  time.Time     // when that was
	until time.Time     // of the grace
}

var _ copytree.Yielder = (*foreground)(nil)

// enter begins a call, leave ends it. Neither ever waits.
func (f *foreground) enter() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == 0 {
		f.calm = make(chan struct{})
	}
	f.calls++
}

func (f *foreground) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls--
	if f.calls == 0 {
		close(f.calm)
		f.calm, f.last = nil, time.Now()
	}
}

// Yield waits until no call is under way, or for yieldAtMost, and says whether there were any, or
// have been lately. Errors: the context's cause.
func (f *foreground) Yield(ctx context.Context) (others bool, err error) {
	calm, others := f.look()
	if calm == nil {
		return others, nil
	}
	timer := time.NewTimer(yieldAtMost)
	defer timer.Stop()
	select {
	case <-calm:
	case <-timer.C:
		f.extend()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return true, err
}

// look returns what to wait for, nil for nothing.
func (f *foreground) look() (calm <-chan struct{}, others bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.calls == 0 {
		return nil, now.Sub(f.last) < lately
	}
	if now.Before(f.until) {
		return nil, true
	}
	return f.calm, true
}

func (f *foreground) extend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = time.Now().Add(grace)
}
