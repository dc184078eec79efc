package trash

import (
	"sync"
	"time"

	"github.com/tidwall/btree"
)

const (
	// maxPoll is how long a purge waits at most before it asks again whether the filesystem has
	// finished what it does in the background. The first time a purge waits firstPoll, and then
	// twice as long each time.
	maxPoll   = 500 * time.Millisecond
	firstPoll = 8 * time.Millisecond
	// retiredPoll is how often the trash asks what counts for a retired quota ID.
	retiredPoll = 10 * time.Second
)

// schedule has entries in the order in which they are due. A start may add all deleted volumes of a
// pool, in any order.
type schedule struct{ *btree.BTreeG[*Entry] }

func newSchedule() schedule {
	unlocked := btree.Options{NoLocks: true} // the mutex is the queue's
	return schedule{btree.NewBTreeGOptions(func(a, b *Entry) bool {
		if !a.due.Equal(b.due) {
			return a.due.Before(b.due)
		}
		return a.number < b.number
	}, unlocked)}
}

// queue hands out entries when they are due.
type queue struct {
	mu       sync.Mutex
	changed  sync.Cond
	schedule schedule
	handed   map[uint64]*Entry // handed out, and not done: few
	added    uint64            // numbers the entries
	failing  int               // entries that wait for another try
	wake     *time.Timer       // broadcasts changed when the first entry is due
	stopped  bool
}

func newQueue() *queue {
	q := &queue{schedule: newSchedule(), handed: map[uint64]*Entry{}}
	q.changed.L = &q.mu
	q.wake = time.AfterFunc(time.Hour, q.changed.Broadcast)
	return q
}

// stop ends every next.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.wake.Stop()
	q.changed.Broadcast()
}

func (q *queue) add(e Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.added++
	e.number = q.added
	q.schedule.Set(&e)
	if e.failed {
		q.failing++
	}
	q.changed.Signal()
}

// poll queues an entry that the filesystem is still removing.
func (q *queue) poll(e Entry) {
	e.due = time.Now().Add(pollAfter(e.polls))
	e.polls++
	q.add(e)
}

func pollAfter(polls int) time.Duration {
	for delay := firstPoll; delay < maxPoll; delay *= 2 {
		if polls == 0 {
			return delay
		}
		polls--
	}
	return maxPoll
}

// expireAll makes every entry due, whatever its retention: the disk is full.
func (q *queue) expireAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	var later []*Entry
	q.schedule.Reverse(func(e *Entry) bool {
		if e.due.After(now) {
			later = append(later, e)
		}
		return e.due.After(now)
	})
	for _, e := range later {
		q.schedule.Delete(e)
		e.due, e.lookAfter = now, now
		q.schedule.Set(e)
	}
	q.changed.Broadcast()
}

// next waits for an entry that is due; false means that the queue has been stopped. The caller
// calls done when the entry is purged, or queued again.
func (q *queue) next() (Entry, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped {
		if first, ok := q.schedule.Min(); ok {
			wait := time.Until(first.due)
			if wait <= 0 {
				return q.pop(), true
			}
			q.wake.Reset(wait)
		}
		q.changed.Wait()
	}
	return Entry{}, false
}

// pop removes and returns the entry that is due first. An entry that has failed leaves the count
// of failures: it is tried again.
func (q *queue) pop() Entry {
	e, _ := q.schedule.PopMin()
	if e.failed {
		q.failing--
	}
	e.failed = false
	q.handed[e.number] = e
	return *e
}

// done says that an entry of next is purged, or queued again.
func (q *queue) done(e Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.handed, e.number)
}

// failures counts the entries that wait for another try.
func (q *queue) failures() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failing
}
