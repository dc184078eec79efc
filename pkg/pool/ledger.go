package pool

import (
	"context"
	"fmt"
	"math"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ledger counts what a pool has promised. Bytes enter it once, when a volume is about to be made or is found on disk,
// and leave it once, when the volume's data is gone from the disk; between the two they move from committed to trash.
type ledger struct {
	mu        sync.Mutex
	committed int64
	trash     int64
}

// room is what a pool's filesystem can hold, in bytes.
type room struct {
	size      int64 // of the filesystem
	free      int64 // what an unprivileged writer can still write
	used      int64 // by volumes, by others, and what the filesystem keeps for root
	promise   int64 // what may be promised in all: (size − what others use) × overcommit − reserve
	available int64 // what may be promised now
}

// reserve takes bytes out of what is available, or says how much there is. Errors: ErrNoSpace.
func (l *ledger) reserve(bytes int64, r room) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if available := l.availableLocked(r); bytes > available {
		return fmt.Errorf("%w: %d bytes wanted, %d available (filesystem %d, free %d, promised to volumes %d, waiting to be purged %d)",
			volume.ErrNoSpace, bytes, available, r.size, r.free, l.committed, l.trash)
	}
	l.committed += bytes
	return nil
}

// release gives back what reserve took.
func (l *ledger) release(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed = max(0, l.committed-bytes)
}

// settle puts a number in the place of one that was reserved, even if it is more.
func (l *ledger) settle(reserved, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed = addSaturating(max(0, l.committed-reserved), bytes)
}

// add counts a volume that was found on disk, even if it is more than may be promised: the promise has been made.
func (l *ledger) add(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed = addSaturating(l.committed, bytes)
}

// discard moves a volume's bytes to the trash: its name is free again, its space is not.
func (l *ledger) discard(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed = max(0, l.committed-bytes)
	l.trash = addSaturating(l.trash, bytes)
}

// addTrash counts what an earlier process had deleted and not purged.
func (l *ledger) addTrash(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trash = addSaturating(l.trash, bytes)
}

// purged gives the space of purged data back.
func (l *ledger) purged(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trash = max(0, l.trash-bytes)
}

func (l *ledger) counts() (committed, trash int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed, l.trash
}

func (l *ledger) available(r room) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.availableLocked(r)
}

// availableLocked is never negative, and never more than overcommit times what the filesystem has free, without the reserve: what
// others have written since the start cannot be promised either.
func (l *ledger) availableLocked(r room) int64 {
	return max(0, min(r.available, r.promise-addSaturating(l.committed, l.trash)))
}

func addSaturating(a, b int64) int64 {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

// room asks the filesystem; it is two system calls, whatever the pool holds. Errors: ErrUnavailable when the disk has failed.
func (p *Pool) room() (room, error) {
	if err := p.alive(); err != nil {
		return room{}, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(p.root.fd(), &st); err != nil {
		return room{}, fmt.Errorf("statfs of pool %s at %s: %w", p.opts.Name, p.opts.Path, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return room{}, fmt.Errorf("%w: pool %s at %s: its filesystem is mounted read-only: look into the kernel's log for disk errors, remount it",
			volume.ErrUnavailable, p.opts.Name, p.opts.Path)
	}
	r := room{
		size: mount.Bytes(st.Blocks, st.Bsize),
		free: mount.Bytes(st.Bavail, st.Bsize),
		used: mount.Bytes(st.Blocks-min(st.Blocks, st.Bavail), st.Bsize),
	}
	if committed, trash := p.ledger.counts(); committed == 0 && trash == 0 {
		p.foreignBytes.Store(r.used) // nothing here is ours
	}
	r.promise = max(0, scale(max(0, r.size-p.foreignBytes.Load()), p.opts.overcommit())-p.opts.ReserveBytes)
	r.available = max(0, scale(r.free, p.opts.overcommit())-p.opts.ReserveBytes)
	return r, nil
}

// alive says whether the filesystem still answers: one that has shut itself down (XFS, when its disk fails) goes on to tell statfs of the
// room that it had. Errors: ErrUnavailable.
func (p *Pool) alive() error {
	var st unix.Stat_t
	if err := unix.Fstat(p.root.fd(), &st); err != nil {
		return fmt.Errorf("%w: pool %s at %s: its disk has failed (%w): look into the kernel's log, and stop the driver to replace it",
			volume.ErrUnavailable, p.opts.Name, p.opts.Path, err)
	}
	return nil
}

// measureForeign estimates, at the start, what others use of the filesystem: all that is used beyond what has been promised to volumes,
// which may not have been written yet. It is exact for a pool without volumes, and never too much.
func (p *Pool) measureForeign() error {
	r, err := p.room()
	if err != nil {
		return err
	}
	committed, trash := p.ledger.counts()
	p.foreignBytes.Store(max(0, r.used-addSaturating(committed, trash)))
	return nil
}

// measureForeignAgain is for when something has gone that measureForeign took for others': their part can only be less. What others have
// written since does not enter it.
func (p *Pool) measureForeignAgain(ctx context.Context) {
	r, err := p.room()
	if err != nil {
		klog.FromContext(ctx).Error(err, "What a purge has freed is not offered before the next start", "pool", p.opts.Name)
		return
	}
	committed, trash := p.ledger.counts()
	now := max(0, r.used-addSaturating(committed, trash))
	for { // there are several purges at a time
		was := p.foreignBytes.Load()
		if now >= was || p.foreignBytes.CompareAndSwap(was, now) {
			return
		}
	}
}

// scale multiplies without wrapping: beyond 8 EiB everything is 8 EiB.
func scale(n int64, factor float64) int64 {
	if product := float64(n) * factor; product < math.MaxInt64 {
		return int64(product)
	}
	return math.MaxInt64
}
