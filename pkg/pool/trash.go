package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
)

const (
	purgeWorkers = 2
	// purgeRetry is how long a purge waits after a failure: a busy mount or a sick disk needs a person, not a loop.
	purgeRetry = time.Minute
	// purgePoll is how long it waits for the filesystem to end what it does in the background.
	purgePoll = 500 * time.Millisecond
)

// discarded is an entry of trash/.
type discarded struct {
	name  string
	bytes int64       // what the ledger gives back when the entry is gone
	tag   backend.Tag // what the backend gets back, once
	due   time.Time   // when it may be purged
}

// purger empties a pool's trash in the background. Its queue is in memory; trash/ itself is what survives a crash.
type purger struct {
	mu      sync.Mutex
	changed sync.Cond
	queue   []discarded
	stopped bool
	failing int // entries that wait for another try
	cancel  context.CancelFunc
	workers sync.WaitGroup
	// retryAfter is purgeRetry but in tests.
	retryAfter time.Duration
}

func newPurger() *purger {
	q := &purger{cancel: func() {}, retryAfter: purgeRetry}
	q.changed.L = &q.mu
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
	q.mu.Unlock()
	q.changed.Broadcast()
	q.workers.Wait()
}

// add queues an entry for when it is due.
func (q *purger) add(d discarded) {
	if wait := time.Until(d.due); wait > 0 {
		time.AfterFunc(wait, func() { q.push(d) })
		return
	}
	q.push(d)
}

func (q *purger) push(d discarded) {
	q.mu.Lock()
	q.queue = append(q.queue, d)
	q.mu.Unlock()
	q.changed.Signal()
}

// next waits for an entry; false means that the purger has been stopped.
func (q *purger) next() (discarded, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queue) == 0 && !q.stopped {
		q.changed.Wait()
	}
	if q.stopped {
		return discarded{}, false
	}
	d := q.queue[0]
	q.queue = q.queue[1:]
	return d, true
}

// retry queues an entry that could not be purged.
func (q *purger) retry(d discarded) {
	q.mu.Lock()
	q.failing++
	q.mu.Unlock()
	time.AfterFunc(q.retryAfter, func() {
		q.mu.Lock()
		q.failing--
		q.mu.Unlock()
		q.push(d)
	})
}

func (q *purger) failures() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failing
}

// purge removes an entry of trash/ and gives its space back; not before.
func (p *Pool) purge(ctx context.Context, d discarded) {
	err := p.removeDiscarded(ctx, &d)
	switch {
	case err == nil:
		p.ledger.purged(d.bytes)
	case errors.Is(err, backend.ErrPending):
		time.AfterFunc(purgePoll, func() { p.purger.push(d) })
	case ctx.Err() != nil: // the next start goes on from here
	default:
		klog.FromContext(ctx).Error(err, "Deleted data could not be purged; its space stays taken, and the purge is tried again",
			"pool", p.opts.Name, "entry", d.name, "retryIn", p.purger.retryAfter)
		p.purger.retry(d)
	}
}

// removeDiscarded removes the record last: as long as there is data, the next start has to know how much was promised to it, and
// as long as there is a quota, whose that is.
func (p *Pool) removeDiscarded(ctx context.Context, thrown *discarded) error {
	if d, err := openNoMount(p.trash, thrown.name); err == nil {
		defer d.Close()
		if err := p.removeData(ctx, d); err != nil {
			return err
		}
	}
	failpoint.Here("purge.data-removed")
	// Only now: with the limit gone, a purge of many files would be slower, and an ID that still counts files must not be given out.
	if err := p.backend.Release(thrown.tag); err != nil {
		return err
	}
	thrown.tag = 0 // from here on it can be another volume's
	failpoint.Here("purge.released")
	return removeTree(ctx, p.trash, thrown.name)
}

// removeData removes all but the record.
func (p *Pool) removeData(ctx context.Context, d dir) error {
	if err := p.backend.Discard(d.File); err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	for _, n := range slices.DeleteFunc(names, func(n string) bool { return n == recordFile }) {
		err = errors.Join(err, removeTree(ctx, d, n))
	}
	return err
}

// throwIn moves an entry of another directory of the pool into the trash, durable when it returns. On failure the entry is
// where it was, as far as that could be done.
func (p *Pool) throwIn(from dir, name string) (thrown string, err error) {
	thrown = withSuffix(name)
	if err := from.rename(name, p.trash, thrown); err != nil {
		return "", err
	}
	failpoint.Here("trash.renamed")
	if err := errors.Join(p.trash.Sync(), from.Sync()); err != nil {
		return "", errors.Join(err, p.trash.rename(thrown, from, name))
	}
	failpoint.Here("trash.durable")
	return thrown, nil
}

// scanTrash queues what earlier deletes left. What an entry's record promised still counts, because the data still fills the disk, and
// its quota is nobody else's yet.
func (p *Pool) scanTrash() error {
	// Opened anew: what emptyTmp has moved here since the pool's own descriptor was opened is not read through that on btrfs.
	trash, err := p.root.openDir(trashDir)
	if err != nil {
		return err
	}
	defer trash.Close()
	names, err := trash.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read %s/: %w", trashDir, err)
	}
	for _, name := range names {
		d := discarded{name: name, due: p.thrownAt(name).Add(p.opts.TrashRetention)}
		v, err := p.readRecord(p.trash, name, withoutSuffix(name))
		if err == nil {
			d.bytes = v.CapacityBytes
		}
		d.tag = p.holdDiscarded(name, backend.Tag(v.QuotaID))
		p.ledger.addTrash(d.bytes)
		p.purger.add(d)
	}
	return nil
}

// holdDiscarded is 0 for an entry whose quota is another volume's: a crash came after the release.
func (p *Pool) holdDiscarded(name string, tag backend.Tag) backend.Tag {
	d, err := openNoMount(p.trash, name)
	if err != nil {
		return 0
	}
	defer d.Close()
	return p.backend.Hold(d.File, tag)
}

// thrownAt is when an entry came to the trash: rename(2) sets the change time of what it moves.
func (p *Pool) thrownAt(name string) time.Time {
	var st unix.Stat_t
	if err := unix.Fstatat(p.trash.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return time.Time{}
	}
	return time.Unix(st.Ctim.Unix())
}
