package trash

import (
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Take takes an entry of trash/ out of the queue, so that nobody purges it. The caller moves it out
// of trash/, or puts it back. Errors: ErrNotFound when there is no such entry; ErrPrecondition when
// its purge has begun, or is about to: part of its data may be gone.
func (t *Trash) Take(name string) (Entry, error) {
	e, ok := t.queue.take(func(e *Entry) bool {
		return e.In == t.Dir && e.Name == name && !e.removed && !e.begun
	})
	switch begun, err := HasTombstone(t.Dir, name); {
	case !ok:
		return Entry{}, t.whyNot(name)
	case err != nil || begun:
		t.PutBack(e)
		return Entry{}, t.whyNot(name)
	}
	return e, nil
}

// whyNot says why an entry cannot be taken.
func (t *Trash) whyNot(name string) error {
	f, err := t.Dir.OpenUnmounted(name)
	if err != nil {
		return fmt.Errorf("%w: the trash has no entry %s", volume.ErrNotFound, name)
	}
	f.Close()
	return fmt.Errorf("%w: entry %s of the trash is being purged: part of its data may be gone",
		volume.ErrPrecondition, name)
}

// PutBack queues an entry of Take again. It is due when it was before.
func (t *Trash) PutBack(e Entry) { t.queue.add(e) }

// take removes and returns the first entry that matches. Its cost grows with the queue.
func (q *queue) take(matches func(*Entry) bool) (Entry, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var found *Entry
	q.schedule.Scan(func(e *Entry) bool {
		if matches(e) {
			found = e
		}
		return found == nil
	})
	if found == nil {
		return Entry{}, false
	}
	q.schedule.Delete(found)
	if found.failed {
		q.failing--
	}
	return *found, true
}
