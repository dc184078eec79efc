// Package trash purges deleted entries, and entries that a crash has left unfinished, from trash/
// and tmp/. If the disk was too full for a rename, it purges a deleted entry in place. The space
// and the quota ID of an entry are given back only after its data is gone. The queue is in memory;
// after a crash the next start builds it again from the tree on disk.
package trash

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	purgeWorkers = 2
	// purgeRetry is how long a purge waits after a failure: a busy mount or a failing disk rarely
	// recovers by itself.
	purgeRetry = time.Minute
	// retryOnFullDisk is how long a purge waits after ENOSPC: on btrfs even a removal can need the
	// reserve, which the next commit refills.
	retryOnFullDisk = time.Second
	// purgeDelay lets the purges of a busy pool share one reading of the mount table.
	purgeDelay = 10 * time.Millisecond
)

// Entry is a volume or a snapshot that is deleted, or a part of one that was never finished.
type Entry struct {
	// In is the open directory that has the entry: trash/, tmp/ or, if the entry is deleted in place,
	// volumes/ or snapshots/. It stays the caller's.
	In   openat.Dir
	Name string
	// Bytes is what the ledger counts until the entry is gone.
	Bytes int64
	// QuotaID is released once, when the data is gone; 0 is none.
	QuotaID volume.QuotaID
	// Uncharge, if set, subtracts a snapshot's bytes from the account of its volume. It is called
	// when the data is gone, until it returns nil.
	Uncharge func() error
	// Unrecorded says that the entry was found without a readable record, so what it occupies of
	// the disk was counted as somebody else's.
	Unrecorded bool
	// Retention is how long an entry of trash/ can be restored by hand.
	Retention volume.Retention

	since time.Time // when it came into trash/; zero for now, until it is queued
	due   time.Time // when it may be purged
	// lookAfter: the entry is purged only if a mount table that was read after this time does not
	// show it.
	lookAfter time.Time
	begun     bool // the disk says that its purge has begun
	// removed: nothing of the entry is on the disk any more, and another entry may have its name. Only
	// its quota ID is left (retire).
	removed bool
	failed  bool // it was tried, and waits for another try
	polls   int  // how often the filesystem had not finished

	number uint64 // of its addition to the queue, which no other entry of the queue has
}

// path is from the pool's directory.
func (e *Entry) path() string { return e.In.Name() + "/" + e.Name }

// dueAt sets when the entry may be purged. Until then an operator may mount the entry in trash/, so
// lookAfter is set too.
func (e *Entry) dueAt(t time.Time) { e.due, e.lookAfter = t, t.Add(-purgeDelay) }

// Backend is what a purge asks of the pool's filesystem; see backend.Backend. It may be a
// backend.Retirer.
type Backend interface {
	Discard(dir openat.Dir) error
	Release(id volume.QuotaID) error
}

// Options are what a Trash works with. All but Retention, IsOrdered and RetryAfter have to be set.
type Options struct {
	// Pool is the pool's name, for the log.
	Pool string
	// Dir and Tmp are trash/ and tmp/, open. They stay the caller's.
	Dir, Tmp openat.Dir
	// Retention is how long an entry of trash/ can be restored by hand that has no time of its own.
	Retention time.Duration
	// IsOrdered says that the filesystem has an ordered journal (backend.HasOrderedJournal).
	IsOrdered bool
	// Sync makes the files durable, sharing fsync(2) calls with others.
	Sync    func(files ...*os.File) error
	Backend Backend
	// Records are the names of the files that are removed last. As long as there is data, the next
	// start has to know how much was promised to it, and, as long as there is a quota, whose it is.
	Records []string
	// Location is where the pool is in its filesystem.
	Location mount.Location
	// CheckDetached refuses an entry whose image has a loop device. Errors: ErrInUse.
	CheckDetached func(in openat.Dir, name string) error
	// Yield lets calls go first.
	Yield func(ctx context.Context) error
	// Purged is called for each entry that is gone. If something else counts for the entry's quota ID
	// for long, Purged is called several times, each time with the bytes that do not count any more.
	Purged func(ctx context.Context, e Entry)
	// RetryAfter is purgeRetry by default, and shorter in tests.
	RetryAfter time.Duration
}

// Trash is the trash of one pool.
type Trash struct {
	Options

	queue   *queue
	mounts  mountTable
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	inPlace []Entry // found by the start
	retired atomic.Int64
}

// New returns an empty trash. The caller may add entries, and starts it.
func New(opts Options) *Trash {
	opts.RetryAfter = cmp.Or(opts.RetryAfter, purgeRetry)
	return &Trash{Options: opts, queue: newQueue(), cancel: func() {}}
}

// Start begins to purge. The context's end does not wait for a purge; the next start goes on.
func (t *Trash) Start(ctx context.Context) {
	ctx, t.cancel = context.WithCancel(ctx)
	for range purgeWorkers {
		t.workers.Go(func() {
			for e, ok := t.queue.next(); ok; e, ok = t.queue.next() {
				t.purge(ctx, e)
				t.queue.done(e)
			}
		})
	}
}

// Stop ends the purges, in the middle of a tree if need be, and waits for them.
func (t *Trash) Stop() {
	t.cancel()
	t.queue.stop()
	t.workers.Wait()
}

// Delete moves an entry of volumes/ or snapshots/ to trash/, under a name that is free there. On a
// disk that is too full for a rename, the entry is deleted in place, and all that trash/ retains
// becomes due. An entry that somebody has removed by hand counts as deleted. Delete is durable
// after SyncDeleted. The caller fills in the returned entry, and queues it then. Errors: ErrInUse
// when the entry is a mount point.
func (t *Trash) Delete(from openat.Dir, name, trashName string) (Entry, error) {
	e := Entry{In: t.Dir, Name: trashName}
	err := from.RenameNoReplace(name, t.Dir, trashName)
	if errors.Is(err, unix.EBUSY) {
		return e, fmt.Errorf("%w: something is mounted on its directory: unmount it (%w)",
			volume.ErrInUse, err)
	}
	if errors.Is(err, unix.ENOSPC) {
		t.queue.expireAll()
		e.In, e.Name = from, name
		err = deleteInPlace(from, name)
	}
	if errors.Is(err, os.ErrNotExist) {
		e.In, err = t.Tmp, nil // already gone; tmp/ has no retention, so its bytes are freed at once
	}
	return e, err
}

// SyncDeleted makes durable what Delete did to entries of volumes/ or snapshots/: what is still
// there is deleted in place.
func (t *Trash) SyncDeleted(from openat.Dir, names ...string) error {
	files := []*os.File{from.File}
	if !t.IsOrdered {
		files = append(files, t.Dir.File)
	}
	var inPlace []openat.Dir
	defer func() {
		for _, d := range inPlace {
			d.Close()
		}
	}()
	for _, name := range names {
		d, err := from.OpenDir(name)
		switch {
		case err == nil:
			inPlace, files = append(inPlace, d), append(files, d.File)
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
	}
	return onFullDisk(from, func() error { return t.Sync(files...) })
}

// Queue queues an entry. It is purged when its retention has ended.
func (t *Trash) Queue(e Entry) {
	now := time.Now()
	if e.due.IsZero() {
		e.dueAt(now.Add(max(purgeDelay, t.leftRetention(&e))))
	}
	if e.since.IsZero() {
		e.since = now
	}
	t.queue.add(e)
}

// retention is how long an entry is retained in all. Entries that are deleted in place or
// unfinished are not, nor is one whose purge has begun.
func (t *Trash) retention(e *Entry) time.Duration {
	if e.In != t.Dir || e.begun {
		return 0
	}
	return e.Retention.Or(t.Retention)
}

// leftRetention is what is left of an entry's retention. A clock that was ahead when the entry came
// into the trash must not retain the entry for longer.
func (t *Trash) leftRetention(e *Entry) time.Duration {
	if e.since.IsZero() {
		return t.retention(e)
	}
	return t.retention(e) - max(0, time.Since(e.since))
}

// QueueFailed queues an entry for a later purge, like one whose purge has failed: the deletion is
// perhaps not durable, and a power cut must not restore a volume without part of its data.
func (t *Trash) QueueFailed(e Entry) { t.queueFailed(e, t.RetryAfter) }

func (t *Trash) queueFailed(e Entry, retryIn time.Duration) {
	e.failed = true
	e.dueAt(time.Now().Add(retryIn))
	if e.since.IsZero() {
		e.since = time.Now()
	}
	t.queue.add(e)
}

// Failures counts the entries that wait for another try.
func (t *Trash) Failures() int { return t.queue.failures() }

// Retired counts the entries that are gone, and for whose quota ID something else counts.
func (t *Trash) Retired() int { return int(t.retired.Load()) }

// FoundInPlace adds an entry that is deleted in place. The start calls it, possibly concurrently,
// while it reads volumes/ and snapshots/.
func (t *Trash) FoundInPlace(in openat.Dir, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := Entry{In: in, Name: name}
	e.dueAt(time.Now().Add(purgeDelay))
	t.inPlace = append(t.inPlace, e)
}

// Leftovers lists, at the start, the entries that earlier processes have deleted or not finished:
// the entries of FoundInPlace, which it makes durable, and those of trash/ and tmp/. The caller
// fills the entries in and queues them. Entries of tmp/ have no retention: an unfinished snapshot
// may have blocks that count for its source.
func (t *Trash) Leftovers() (left []Entry, err error) {
	t.mu.Lock()
	left, t.inPlace = t.inPlace, nil
	t.mu.Unlock()
	for _, e := range left { // a crash may have come before their sync
		if err := t.SyncDeleted(e.In, e.Name); err != nil {
			return nil, err
		}
	}
	for _, in := range []openat.Dir{t.Dir, t.Tmp} {
		names, err := in.Readdirnames(-1)
		if err != nil {
			return nil, fmt.Errorf("read %s/: %w", in.Name(), err)
		}
		for _, name := range names {
			left = append(left, t.found(in, name))
		}
	}
	return left, nil
}

// found is an entry of trash/ or tmp/ that a start finds. Its retention began when it came there.
func (t *Trash) found(in openat.Dir, name string) Entry {
	e := Entry{In: in, Name: name}
	var st unix.Stat_t
	err := unix.Fstatat(in.FD(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if in == t.Dir && err == nil {
		e.begun = isTombstone(st)
		e.since = time.Unix(st.Ctim.Unix()) // rename(2) sets the change time of what it moves
	}
	return e
}
