package trash

import (
	"testing"
	"time"
)

// A start reads the trash in the order of the directory's hashes.
func TestQueueTakesManyInAnyOrder(t *testing.T) {
	const many = 10_000
	q := newQueue()
	begin := time.Now()
	for i := range many {
		q.add(Entry{due: begin.Add(-time.Duration(i*7919%many) * time.Millisecond)})
	}
	for last := (time.Time{}); q.schedule.Len() > 0; {
		e, ok := q.next()
		if !ok || e.due.Before(last) {
			t.Fatalf("%s comes after %s", e.due, last)
		}
		last = e.due
	}
}

// Its quota ID is released while nothing of the entry is on the disk any more.
func TestRemovedEntryIsNotListed(t *testing.T) {
	q := newQueue()
	due := time.Now().Add(-time.Minute)
	q.add(Entry{Name: "removed", removed: true, due: due})
	q.add(Entry{Name: "there", due: due})
	for handed := range 3 {
		got := q.list(Key{}, 5)
		if len(got) != 1 || got[0].Name != "there" {
			t.Errorf("with %d entries handed out, the list is %+v", handed, got)
		}
		if handed < 2 {
			q.next()
		}
	}
}
