package trash

import (
	"slices"
	"time"
)

// Listed is an entry of the trash, for people.
type Listed struct {
	Entry

	// OriginalName is the name for which the entry has its name.
	OriginalName string
	Since, Due   time.Time
	State        State
}

// State says what becomes of an entry.
type State int

// The states.
const (
	Retained State = iota // it is whole, and stays until it is due
	Purging               // its data is being removed, or will be as soon as it is due
	Failing               // its purge has failed, and begins again when it is due
)

// Key is where an entry is in the list. The zero Key is before all others.
type Key struct {
	// UnixNano is when the entry is due, and Number tells it from others of that time.
	UnixNano int64
	Number   uint64
}

// Key is where the entry is in the list.
func (l Listed) Key() Key { return Key{l.Due.UnixNano(), l.number} }

// List returns at most limit entries after a key, in the order in which they are due. The cost
// grows with the part, not with the trash. Those that are being purged come first, and only after
// the zero Key. Entries of which only the quota ID is left are not listed.
func (t *Trash) List(after Key, limit int) []Listed {
	entries := t.queue.list(after, limit)
	listed := make([]Listed, 0, len(entries))
	for _, e := range entries {
		listed = append(listed, t.listed(e))
	}
	return listed
}

// Len is the number of entries, with those of which only the quota ID is left.
func (t *Trash) Len() int { return t.queue.len() }

func (t *Trash) listed(e Entry) Listed {
	l := Listed{
		Entry: e, OriginalName: t.OriginalName(e), Since: e.since, Due: e.due, State: Purging,
	}
	switch {
	case e.failed:
		l.State = Failing
	case t.retention(&e) > 0 && time.Now().Before(e.due):
		l.State = Retained
	}
	return l
}

func (q *queue) list(after Key, limit int) (entries []Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if after == (Key{}) {
		for _, e := range q.handed {
			if !e.removed {
				entries = append(entries, *e)
			}
		}
		slices.SortFunc(entries, func(a, b Entry) int { return a.due.Compare(b.due) })
	}
	pivot := &Entry{due: time.Unix(0, after.UnixNano), number: after.Number}
	q.schedule.Ascend(pivot, func(e *Entry) bool {
		isPivot := e.due.Equal(pivot.due) && e.number == pivot.number
		if !e.removed && !isPivot {
			entries = append(entries, *e)
		}
		return len(entries) < limit
	})
	return entries[:min(len(entries), limit)]
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.schedule.Len() + len(q.handed)
}
