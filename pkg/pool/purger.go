package pool

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	purgeWorkers = 2
	// purgeRetry is how long a purge waits after a failure: a busy mount or a sick disk needs a
	// person, not a loop.
	purgeRetry = time.Minute
	// purgeDelay lets the purges of a busy pool look at one reading of the mount table.
	purgeDelay = 10 * time.Millisecond
	// purgePoll is how long it waits at most before it asks again whether the filesystem has ended
	// what it does in the background; the first time it waits firstPoll, and then twice as long
	// each time.
	purgePoll = 500 * time.Millisecond
	firstPoll = 8 * time.Millisecond
	// longWait is the number of polls, a minute in all, after which somebody may want to know.
	longWait = 120
)

// discarded is what is to be purged.
type discarded struct {
	at      openat.Dir // trash/; tmp/; volumes/ or snapshots/, where it is buried
	name    string
	bytes   int64          // what the ledger gives back when the entry is gone
	quotaID volume.QuotaID // what the backend gets back, once
	keeps   account        // of a snapshot: its source, if the bytes count for that
	due     time.Time      // when it may be purged
	// lookAfter is since when nobody may have it mounted: a mount table from before that says
	// nothing.
	lookAfter time.Time
	// uncounted: it was found without a record, and what it takes was taken for somebody else's
	// (measureForeign).
	uncounted bool
	failed    bool // it was tried, and has to wait
	polls     int  // how often the filesystem had not finished
}

// path is from the pool's directory.
func (d *discarded) path() string { return d.at.Name() + "/" + d.name }

// dueAt says when it may be purged. Until then it can be mounted, by somebody who looks into the
// trash.
func (d *discarded) dueAt(t time.Time) { d.due, d.lookAfter = t, t.Add(-purgeDelay) }

// schedule has what is to be purged, the first that is due at its top (container/heap): it may be
// all volumes of a pool, found at a start in any order.
type schedule []discarded

var _ heap.Interface = (*schedule)(nil)

// Len implements heap.Interface.
func (s *schedule) Len() int { return len(*s) }

// Less implements heap.Interface.
func (s *schedule) Less(i, j int) bool { return (*s)[i].due.Before((*s)[j].due) }

// Swap implements heap.Interface.
func (s *schedule) Swap(i, j int) { (*s)[i], (*s)[j] = (*s)[j], (*s)[i] }

// Push implements heap.Interface.
func (s *schedule) Push(
	d any,
) {
	*s = append(*s, d.(discarded))
} //nolint:forcetypeassert // nothing else is pushed

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	d := (*s)[last]
	(*s)[last] = discarded{}
	*s = (*s)[:last]
	return d
}

// purger removes what is discarded in the background. Its queue is in memory; the tree itself is
// what survives a crash.
type purger struct {
	mu      sync.Mutex
	changed sync.Cond
	queue   schedule
	failing int         // entries that wait for another try
	wake    *time.Timer // broadcasts changed when the first one is due
	stopped bool
	cancel  context.CancelFunc
	workers sync.WaitGroup
	// retryAfter is purgeRetry but in tests.
	retryAfter time.Duration
}

func newPurger() *purger {
	q := &purger{cancel: func() {}, retryAfter: purgeRetry}
	q.changed.L = &q.mu
	q.wake = time.AfterFunc(time.Hour, q.changed.Broadcast)
	return q
}

func (q *purger) start(ctx context.Context, purge func(context.Context, discarded)) {
	ctx, q.cancel = context.WithCancel(ctx)
	for range purgeWorkers {
		q.workers.Go(func() {
			for d, ok := q.next(); ok; d, ok = q.next() {
				purge(ctx, d)
			}
		})
	}
}

// stop ends the workers, in the middle of a tree if need be, and waits for them.
func (q *purger) stop() {
	q.cancel()
	q.mu.Lock()
	q.stopped = true
	q.wake.Stop()
	q.mu.Unlock()
	q.changed.Broadcast()
	q.workers.Wait()
}

// add queues an entry for when it is due.
func (q *purger) add(d discarded) {
	q.mu.Lock()
	defer q.mu.Unlock()
	heap.Push(&q.queue, d)
	if d.failed {
		q.failing++
	}
	q.changed.Signal()
}

// retry queues an entry that could not be purged.
func (q *purger) retry(d discarded) {
	d.failed = true
	d.dueAt(time.Now().Add(q.retryAfter))
	q.add(d)
}

// wait queues an entry that the filesystem is still removing.
func (q *purger) wait(d discarded) {
	d.due = time.Now().Add(pollAfter(d.polls))
	d.polls++
	q.add(d)
}

func pollAfter(polls int) time.Duration {
	for delay := firstPoll; delay < purgePoll; delay *= 2 {
		if polls == 0 {
			return delay
		}
		polls--
	}
	return purgePoll
}

// hurry makes every entry due: the disk is full, and what is kept for a while has to go.
func (q *purger) hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for i := range q.queue { // which leaves them in their order
		if d := &q.queue[i]; d.due.After(now) {
			d.due, d.lookAfter = now, now
		}
	}
	q.changed.Broadcast()
}

// next waits for an entry that is due; false means that the purger has been stopped.
func (q *purger) next() (discarded, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped {
		if len(q.queue) > 0 {
			wait := time.Until(q.queue[0].due)
			if wait <= 0 {
				return q.take(), true
			}
			q.wake.Reset(wait)
		}
		q.changed.Wait()
	}
	return discarded{}, false
}

// take is the first entry, for another try.
func (q *purger) take() discarded {
	d, _ := heap.Pop(&q.queue).(discarded)
	if d.failed {
		q.failing--
	}
	d.failed = false
	return d
}

// failures counts the entries that wait for another try.
func (q *purger) failures() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failing
}
