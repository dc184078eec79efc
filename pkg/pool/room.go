package pool

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

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
	p.noteOthers(r.Size)
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
	return ledger.Room{
		Size:       mount.Bytes(st.Blocks, st.Bsize),
		Free:       mount.Bytes(st.Bavail, st.Bsize),
		Used:       mount.Bytes(st.Blocks-min(st.Blocks, st.Bavail), st.Bsize),
		Overcommit: p.opts.overcommit(),
		Reserve:    p.opts.ReserveBytes,
	}, nil
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
