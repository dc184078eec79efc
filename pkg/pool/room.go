package pool

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// reserve takes bytes out of what the pool may promise. Errors: ErrNoSpace; ErrUnavailable when the
// disk has failed.
func (p *Pool) reserve(bytes int64) error {
	r, err := p.room()
	if err != nil {
		return err
	}
	if err := p.ledger.Reserve(bytes, r); err != nil {
		return err
	}
	p.noteForeign(r)
	return nil
}

// room reads the filesystem's size and use. It costs a few system calls, whatever the pool holds.
// Errors: ErrUnavailable when the disk has failed or is no longer at the pool's path.
func (p *Pool) room() (ledger.Room, error) {
	if err := errors.Join(p.alive(), p.CheckAtPath()); err != nil {
		return ledger.Room{}, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(p.layout.Root.FD(), &st); err != nil {
		return ledger.Room{}, p.wrap(fmt.Errorf("statfs: %w", err))
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		err := fmt.Errorf("%w: its filesystem is mounted read-only: "+
			"look into the kernel's log for disk errors, remount it", volume.ErrUnavailable)
		return ledger.Room{}, p.wrap(volume.Because(volume.ReasonReadOnly, err))
	}
	r := ledger.Room{
		Size:       mount.Bytes(st.Blocks, st.Bsize),
		Free:       mount.Bytes(st.Bavail, st.Bsize),
		Used:       mount.Bytes(st.Blocks-min(st.Blocks, st.Bavail), st.Bsize),
		Overcommit: p.opts.overcommit(),
		Reserve:    p.opts.ReserveBytes,
	}
	if committed, trash := p.ledger.Counts(); committed == 0 && trash == 0 {
		// The pool holds nothing: all used bytes are other users', or are still being freed.
		p.foreign.set(r.Used)
	}
	r.Foreign = p.foreign.atMost(r.Used)
	return r, nil
}

// alive says whether the filesystem still works. statfs(2) cannot tell: XFS shuts itself down when
// its disk fails, and statfs then still returns the last sizes. Errors: ErrUnavailable.
func (p *Pool) alive() error {
	var st unix.Stat_t
	if err := unix.Fstat(p.layout.Root.FD(), &st); err != nil {
		err = fmt.Errorf("%w: its disk has failed (%w): "+
			"look into the kernel's log, and stop the driver to replace it", volume.ErrUnavailable, err)
		return p.wrap(volume.Because(volume.ReasonDiskFailed, err))
	}
	return nil
}

// measureForeign estimates, at the start, how much of the filesystem other users occupy: the used
// bytes minus the bytes of the volumes and snapshots. The estimate is too low in two cases: blocks
// that several volumes share count for each of them; and where no backend counts blocks, as in
// directories of a filesystem without quotas, the promised bytes of a volume count as written. So
// there it is at least what earlier processes knew.
func (p *Pool) measureForeign(ctx context.Context) error {
	if err := p.recallForeign(ctx); err != nil {
		return err
	}
	foreign, err := p.usedByOthers(p.foreign.unwrittenAtStart())
	p.foreign.set(foreign)
	return err
}

// usedByOthers returns the bytes that other users occupy, if that many of the promised bytes have
// not been written.
func (p *Pool) usedByOthers(unwritten int64) (int64, error) {
	r, err := p.room()
	if err != nil {
		return 0, err
	}
	committed, trash := p.ledger.Counts()
	measured := max(0, r.Used-max(0, ledger.Sum(committed, trash)-unwritten))
	return p.foreign.atLeastKnown(measured, r.Used), nil
}

// measureForeignAgain is called after a purge of data without a record: measureForeign counted that
// data as other users'. The value can only fall, so what other users have written since the start
// is not added.
func (p *Pool) measureForeignAgain(ctx context.Context) {
	now, err := p.usedByOthers(p.unwrittenNow())
	if err != nil {
		klog.FromContext(ctx).Error(err,
			"What a purge has freed is not offered before the next start", "pool", p.opts.Name)
		return
	}
	p.foreign.atMost(now)
}

// unwrittenNow returns how many promised bytes are not written now. It reads the usage of each
// volume.
func (p *Pool) unwrittenNow() (sum int64) {
	for after := ""; ; {
		page := p.volumes.catalog.After(after, scanBatch)
		for _, e := range page {
			if e.IsHeldToSize() {
				sum = ledger.Sum(sum, p.unwrittenOf(p.volumes.dir, e.Dir, p.volumes.unpack(e)))
			}
			after = e.Dir
		}
		if len(page) == 0 {
			return sum
		}
	}
}

// unwrittenOf returns how many of its promised bytes a volume has not allocated yet; 0 where no
// backend counts blocks. parent is a directory of the pool, and entry is the volume's directory in
// it. Bytes that the volume's snapshots charge to it do not count as
// the volume's.
func (p *Pool) unwrittenOf(parent openat.Dir, entry string, v volume.Volume) int64 {
	counter, ok := p.backendOf(v.Spec).(backend.Counter)
	if !ok {
		return 0
	}
	data, err := backend.OpenDataIn(parent, entry, unix.O_PATH)
	if err != nil {
		return 0
	}
	defer data.Close()
	allocated, err := counter.Allocated(data, v.QuotaID)
	if err != nil {
		return 0
	}
	own := max(0, allocated-p.accounts.Charged(accountOfVolume(v)))
	return max(0, v.PromisedBytes()-own)
}
