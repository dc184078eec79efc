// Package ledger counts the bytes that a pool has promised to its volumes and snapshots, that
// others use, and that snapshots charge to their volumes. It asks no filesystem: what the
// filesystem has is passed in as a value.
package ledger

import (
	"fmt"
	"math"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Room is the space of a pool's filesystem, in bytes, and how much of it may be promised.
type Room struct {
	Size       int64 // of the filesystem
	Free       int64 // what an unprivileged writer can still write
	Used       int64 // by volumes, by others, and what the filesystem reserves for root
	Overcommit float64
	Reserve    int64 // what is never promised
}

// promise is what may be promised in all, if others use that many bytes.
func (r Room) promise(others int64) int64 {
	return max(0, scale(max(0, r.Size-others), r.Overcommit)-r.Reserve)
}

// promiseNow bounds what may be promised at this moment: what others have written since the start
// cannot be promised either.
func (r Room) promiseNow() int64 { return max(0, scale(r.Free, r.Overcommit)-r.Reserve) }

// Ledger counts promised bytes. Bytes enter it once, when a volume is about to be made or is found
// on disk, and leave it once, when the volume's data is gone from the disk. Between the two they
// move from committed to trash. No sum wraps or is negative. The zero value is ready; its methods
// may be called concurrently.
type Ledger struct {
	mu        sync.Mutex
	committed int64
	trash     int64
	others    others
}

// Reserve promises bytes, or says how many are available. Errors: ErrNoSpace.
func (l *Ledger) Reserve(bytes int64, r Room) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.observe(r)
	if available := l.available(r); bytes > available {
		return fmt.Errorf("%w: %d bytes wanted, %d available: %s: ask for less, or make room: delete "+
			"volumes, snapshots or other files of this pool", volume.ErrNoSpace, bytes, available,
			l.explain(r))
	}
	l.committed += bytes
	return nil
}

// explain says how available comes to its number, so that an operator can add it up.
func (l *Ledger) explain(r Room) string {
	if r.promiseNow() < r.promise(l.others.bytes)-Sum(l.committed, l.trash) {
		return fmt.Sprintf("free on the filesystem %d * overcommit %v - reserve %d", r.Free, r.Overcommit,
			r.Reserve)
	}
	return fmt.Sprintf("(filesystem %d - used by others %d) * overcommit %v - reserve %d"+
		" - promised to volumes %d - waiting to be purged %d",
		r.Size, l.others.bytes, r.Overcommit, r.Reserve, l.committed, l.trash)
}

// Release ends a promise of Reserve.
func (l *Ledger) Release(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed = max(0, l.committed-bytes)
}

// Replace counts bytes instead of what was reserved, even if that is more than is available.
func (l *Ledger) Replace(reserved, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed = Sum(max(0, l.committed-reserved), bytes)
}

// Add counts what was found on disk, even if that is more than may be promised: the promise has
// been made.
func (l *Ledger) Add(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed = Sum(l.committed, bytes)
}

// MoveToTrash moves the bytes of a deleted volume from committed to trash: its name is free again,
// its space is not free yet.
func (l *Ledger) MoveToTrash(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed = max(0, l.committed-bytes)
	l.trash = Sum(l.trash, bytes)
}

// TakeFromTrash ends the count of bytes in the trash, and counts what the volume that was taken
// back has promised, even if that is more than may be promised.
func (l *Ledger) TakeFromTrash(inTrash, promised int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trash = max(0, l.trash-inTrash)
	l.committed = Sum(l.committed, promised)
}

// AddTrash counts what an earlier process had deleted and not purged.
func (l *Ledger) AddTrash(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trash = Sum(l.trash, bytes)
}

// Purged ends the count of purged data: its space is free.
func (l *Ledger) Purged(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trash = max(0, l.trash-bytes)
}

// Counts returns both sums.
func (l *Ledger) Counts() (committed, trash int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed, l.trash
}

// Available is the most that Reserve would promise now, never negative.
func (l *Ledger) Available(r Room) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.observe(r)
	return l.available(r)
}

func (l *Ledger) available(r Room) int64 {
	return max(0, min(r.promiseNow(), r.promise(l.others.bytes)-Sum(l.committed, l.trash)))
}

// Sum adds without wrapping: beyond 8 EiB everything is 8 EiB. a is not negative.
func Sum(a, b int64) int64 {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

// scale multiplies without wrapping, as Sum adds.
func scale(n int64, factor float64) int64 {
	if product := float64(n) * factor; product < math.MaxInt64 {
		return int64(product)
	}
	return math.MaxInt64
}

const (
	// snapshotOwnBytes is what a snapshot occupies even if it is empty: its directory, its record
	// and the root of its data have a block each.
	snapshotOwnBytes = 3 * 4096
	// inodeBytes is the size of an inode: 256 bytes on ext4, 512 on XFS, more on btrfs.
	inodeBytes = 512
)

// OfSnapshot returns the bytes that the ledger counts for a snapshot that occupies that many bytes
// of blocks and that many inodes of its own: many empty files, or many empty snapshots, fill a disk
// too.
func OfSnapshot(bytes, inodes int64) int64 {
	return max(bytes, snapshotOwnBytes+inodes*inodeBytes)
}
