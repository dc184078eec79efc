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

// ledger counts what a pool has promised. Bytes enter it once, when a volume is about to be made or
// is found on disk, and leave it once, when the volume's data is gone from the disk; between the
// two they move from committed to trash.
type ledger struct {
	mu        sync.Mutex
	committed int64
	trash     int64
	// unwritten is how much of both was not written yet at the start, as far as anybody counts
	// that.
	unwritten int64
}

// room is what a pool's filesystem can hold, in bytes.
type room struct {
	size       int64 // of the filesystem
	free       int64 // what an unprivileged writer can still write
	used       int64 // by volumes, by others, and what the filesystem keeps for root
	foreign    int64 // the part of it that is others'
	overcommit float64
	reserve    int64
}

// promise is what may be promised in all.
func (r room) promise() int64 {
	return max(0, scale(max(0, r.size-r.foreign), r.overcommit)-r.reserve)
}

// promiseNow bounds what may be promised at this moment: what others have written since the start
// cannot be promised either.
func (r room) promiseNow() int64 { return max(0, scale(r.free, r.overcommit)-r.reserve) }

// reserve takes bytes out of what is available, or says how much there is. Errors: ErrNoSpace.
func (l *ledger) reserve(bytes int64, r room) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if available := l.availableLocked(r); bytes > available {
		return fmt.Errorf("%w: %d bytes wanted, %d available: %s", volume.ErrNoSpace, bytes, available,
			l.sumLocked(r))
	}
	l.committed += bytes
	return nil
}

// sumLocked is how availableLocked comes to its number, so that an operator can add it up.
func (l *ledger) sumLocked(r room) string {
	if r.promiseNow() < r.promise()-addSaturating(l.committed, l.trash) {
		return fmt.Sprintf("free on the filesystem %d * overcommit %v - reserve %d", r.free, r.overcommit,
			r.reserve)
	}
	return fmt.Sprintf(
		"(filesystem %d - used by others %d) * overcommit %v - reserve %d - promised to volumes %d - waiting to be purged %d",
		r.size,
		r.foreign,
		r.overcommit,
		r.reserve,
		l.committed,
		l.trash,
	)
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

// add counts a volume that was found on disk, even if it is more than may be promised: the promise
// has been made.
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

// addUnwritten counts what a volume, found on disk, has not of what was promised to it.
func (l *ledger) addUnwritten(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unwritten = addSaturating(l.unwritten, bytes)
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

// availableLocked is never negative.
func (l *ledger) availableLocked(r room) int64 {
	return max(0, min(r.promiseNow(), r.promise()-addSaturating(l.committed, l.trash)))
}

func addSaturating(a, b int64) int64 {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

// room asks the filesystem; it is two system calls, whatever the pool holds. Errors: ErrUnavailable
// when the disk has failed.
func (p *Pool) room() (room, error) {
	if err := p.alive(); err != nil {
		return room{}, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(p.root.FD(), &st); err != nil {
		return room{}, fmt.Errorf("pool %s at %s: statfs: %w", p.opts.Name, p.opts.Path, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return room{}, fmt.Errorf(
			"pool %s at %s: %w: its filesystem is mounted read-only: look into the kernel's log for disk errors, "+
				"remount it",
			p.opts.Name,
			p.opts.Path,
			volume.ErrUnavailable,
		)
	}
	r := room{
		size:       mount.Bytes(st.Blocks, st.Bsize),
		free:       mount.Bytes(st.Bavail, st.Bsize),
		used:       mount.Bytes(st.Blocks-min(st.Blocks, st.Bavail), st.Bsize),
		overcommit: p.opts.overcommit(),
		reserve:    p.opts.ReserveBytes,
	}
	if committed, trash := p.ledger.counts(); committed == 0 && trash == 0 {
		// nothing here is ours, but what the filesystem has not finished to free
		p.foreignBytes.Store(r.used)
	}
	p.foreignAtMost(r.used)
	r.foreign = p.foreignBytes.Load()
	return r, nil
}

// alive says whether the filesystem still answers: one that has shut itself down (XFS, when its
// disk fails) goes on to tell statfs of the room that it had. Errors: ErrUnavailable.
func (p *Pool) alive() error {
	var st unix.Stat_t
	if err := unix.Fstat(p.root.FD(), &st); err != nil {
		return fmt.Errorf(
			"pool %s at %s: %w: its disk has failed (%w): look into the kernel's log, and stop the driver to replace it",
			p.opts.Name,
			p.opts.Path,
			volume.ErrUnavailable,
			err,
		)
	}
	return nil
}

// measureForeign finds out, at the start, what others use of the filesystem: all that is used
// beyond what the volumes and snapshots have of it. Where nobody counts that, as in directories of
// a filesystem without quotas, they are taken to have all that they were promised: then it is too
// little by what has not been written yet. It is too little, too, by what is shared and counts for
// several.
func (p *Pool) measureForeign() error {
	foreign, err := p.foreign(p.ledger.unwritten)
	p.foreignBytes.Store(foreign)
	return err
}

// foreign is what others use if so much of what was promised has not been written.
func (p *Pool) foreign(unwritten int64) (int64, error) {
	r, err := p.room()
	if err != nil {
		return 0, err
	}
	committed, trash := p.ledger.counts()
	return max(0, r.used-max(0, addSaturating(committed, trash)-unwritten)), nil
}

// measureForeignAgain is for when something has gone that measureForeign took for others': their
// part can only be less. What others have written since does not enter it.
func (p *Pool) measureForeignAgain(ctx context.Context) {
	now, err := p.foreign(p.unwrittenNow())
	if err != nil {
		klog.FromContext(
			ctx,
		).Error(err, "What a purge has freed is not offered before the next start", "pool", p.opts.Name)
		return
	}
	p.foreignAtMost(now)
}

// foreignAtMost corrects what was measured while the filesystem was still freeing something of
// ours, or somebody else something of theirs.
func (p *Pool) foreignAtMost(bytes int64) {
	for { // there are several purges and calls at a time
		was := p.foreignBytes.Load()
		if bytes >= was || p.foreignBytes.CompareAndSwap(was, bytes) {
			return
		}
	}
}

// unwrittenNow asks for each volume.
func (p *Pool) unwrittenNow() (sum int64) {
	for after := ""; ; {
		page := p.index.held(after, scanBatch)
		for _, v := range page {
			sum = addSaturating(sum, p.unwrittenOf(p.volumes, v.ID.Dir(), v))
			after = v.ID.Dir()
		}
		if len(page) == 0 {
			return sum
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
