package trash

import (
	"container/heap"
	"sync"
	"time"
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

// schedule is a heap of entries; the entry that is due first is at the top (container/heap). A
// start may add all deleted volumes of a pool, in any order.
type schedule []Entry

var _ heap.Interface = (*schedule)(nil)

// Len implements heap.Interface.
func (s *schedule) Len() int { return len(*s) }

// Less implements heap.Interface.
func (s *schedule) Less(i, j int) bool { return (*s)[i].due.Before((*s)[j].due) }

// Swap implements heap.Interface.
func (s *schedule) Swap(i, j int) { (*s)[i], (*s)[j] = (*s)[j], (*s)[i] }

// Push implements heap.Interface.
func (s *schedule) Push(e any) {
	*s = append(*s, e.(Entry)) //nolint:forcetypeassert // nothing else is pushed
}

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	e := (*s)[last]
	(*s)[last] = Entry{}
	*s = (*s)[:last]
	return e
}

// queue hands out entries when they are due.
type queue struct {
	mu       sync.Mutex
	changed  sync.Cond
	schedule schedule
	failing  int         // entries that wait for another try
	wake     *time.Timer // broadcasts changed when the first entry is due
	stopped  bool
}

func newQueue() *queue {
	q := &queue{}
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
	heap.Push(&q.schedule, e)
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
	for i := range q.schedule { // the order of the heap stays valid
		if e := &q.schedule[i]; e.due.After(now) {
			e.due, e.lookAfter = now, now
		}
	}
	q.changed.Broadcast()
}

// next waits for an entry that is due; false means that the queue has been stopped.
func (q *queue) next() (Entry, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped {
		if len(q.schedule) > 0 {
			wait := time.Until(q.schedule[0].due)
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
	e, _ := heap.Pop(&q.schedule).(Entry)
	if e.failed {
		q.failing--
	}
	e.failed = false
	return e
}

// failures counts the entries that wait for another try.
func (q *queue) failures() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failing
}
