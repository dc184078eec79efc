package job

import (
	"context"
	"sync"
	"time"
)

const (
	// yieldAtMost is how long background work waits for calls to end.
	yieldAtMost = 20 * time.Millisecond
	// grace is how long background work then goes on beside calls, so that the jobs of a busy
	// pool come to an end.
	grace = yieldAtMost / 4
	// recentWindow is how long after a call another one is expected.
	recentWindow = 100 * time.Millisecond
)

// CallGate counts the calls that somebody waits for. Background work, a job or a purge, asks the
// gate between two files whether it may go on. A filesystem's journal and a disk's queue know no
// priorities: what background work has put there delays the next call. The zero value is ready.
type CallGate struct {
	mu    sync.Mutex
	calls int
	idle  chan struct{} // closed when the last call ends; nil when there is none
	last  time.Time     // when the last call ended
	until time.Time     // the end of the grace
}

// Enter begins a call, Leave ends it. Neither ever waits.
func (g *CallGate) Enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls == 0 {
		g.idle = make(chan struct{})
	}
	g.calls++
}

// Leave ends a call.
func (g *CallGate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls--
	if g.calls == 0 {
		close(g.idle)
		g.idle, g.last = nil, time.Now()
	}
}

// Yield waits until no call is under way, or for yieldAtMost, and says whether there were calls, at
// this moment or within the recent window. Errors: the context's cause.
func (g *CallGate) Yield(ctx context.Context) (others bool, err error) {
	idle, others := g.look()
	if idle == nil {
		return others, nil
	}
	timer := time.NewTimer(yieldAtMost)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
		g.extend()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return true, err
}

// look returns the channel to wait for, nil for none.
func (g *CallGate) look() (idle <-chan struct{}, others bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.calls == 0 {
		return nil, now.Sub(g.last) < recentWindow
	}
	if now.Before(g.until) {
		return nil, true
	}
	return g.idle, true
}

func (g *CallGate) extend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = time.Now().Add(grace)
}
