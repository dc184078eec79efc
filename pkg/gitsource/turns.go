package gitsource

import (
	"context"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

const (
	// maxFetches is how many fetches run at a time: the fetcher's memory is bounded.
	maxFetches = gitwire.Jobs
	// maxFetchesOfHost is how many of them ask one server: one that is slow must not take all.
	maxFetchesOfHost = maxFetches - 1
)

// turns bounds the fetches under way.
type turns struct {
	mu      sync.Mutex
	all     int
	byHost  map[string]int
	changed chan struct{} // closed when a fetch ends
}

func newTurns() *turns {
	return &turns{byHost: make(map[string]int), changed: make(chan struct{})}
}

// enter waits until a fetch from that host may run. Errors: the context's.
func (t *turns) enter(ctx context.Context, host string) (leave func(), err error) {
	for {
		changed, ok := t.tryEnter(host)
		if ok {
			return func() { t.leave(host) }, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t *turns) tryEnter(host string) (changed <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == maxFetches || t.byHost[host] == maxFetchesOfHost {
		return t.changed, false
	}
	t.all++
	t.byHost[host]++
	return nil, true
}

func (t *turns) leave(host string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.byHost[host]--; t.byHost[host] == 0 {
		delete(t.byHost, host)
	}
	close(t.changed)
	t.changed = make(chan struct{})
}
