package gitsource

import (
	"context"
	"slices"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

const (
	// maxFetches is how many fetches run at a time: the fetcher's memory is bounded.
	maxFetches = gitwire.Jobs
	// maxFetchesOfHost is how many of them ask one server: one that is slow must not take all.
	maxFetchesOfHost = maxFetches - 1
)

// turns bounds the fetches under way. The next turn is that of the server with the fewest of them,
// so that many contents of servers that do not answer do not keep others waiting.
type turns struct {
	mu      sync.Mutex
	all     int
	byHost  map[string]int
	waiting []*turn // the one that has come first is the first
}

// turn is one that a fetch waits for.
type turn struct {
	host string
	come chan struct{} // closed when the turn has come
}

func newTurns() *turns { return &turns{byHost: make(map[string]int)} }

// enter waits until a fetch from that host may run. Errors: the context's.
func (t *turns) enter(ctx context.Context, host string) (leave func(), err error) {
	turn := &turn{host, make(chan struct{})}
	t.mu.Lock()
	t.waiting = append(t.waiting, turn)
	t.giveLocked()
	t.mu.Unlock()
	leave = func() { t.leave(host) }
	select {
	case <-turn.come:
		return leave, nil
	case <-ctx.Done():
	}
	if t.withdraw(turn) {
		return nil, ctx.Err()
	}
	leave() // the turn came at the same time
	return nil, ctx.Err()
}

// withdraw is false if the turn has come.
func (t *turns) withdraw(turn *turn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, turn)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	return i >= 0
}

func (t *turns) leave(host string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.byHost[host]--; t.byHost[host] == 0 {
		delete(t.byHost, host)
	}
	t.giveLocked()
}

// giveLocked gives turns to those that may run.
func (t *turns) giveLocked() {
	for t.all < maxFetches {
		next := -1
		for i, turn := range t.waiting {
			of := t.byHost[turn.host]
			if of < maxFetchesOfHost && (next < 0 || of < t.byHost[t.waiting[next].host]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		turn := t.waiting[next]
		t.waiting = slices.Delete(t.waiting, next, next+1)
		t.all++
		t.byHost[turn.host]++
		close(turn.come)
	}
}
