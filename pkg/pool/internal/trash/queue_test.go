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
