package pool

import (
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// reserve promises bytes of the pool. Errors: ErrNoSpace; ErrUnavailable when the disk has failed.
// The caller says which pool it is.
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

// room reads the filesystem's size and use. It costs a few system calls, whatever the pool has.
// Errors: ErrUnavailable when the disk has failed or is no longer at the pool's path. The caller
// says which pool it is.
func (p *Pool) room() (ledger.Room, error) {
	space, err := p.layout.Space()
	if err != nil {
		return ledger.Room{}, err
	}
	return ledger.Room{
		Size: space.Size, Free: space.Free, Used: space.Used,
		Overcommit: p.opts.overcommit(), Reserve: p.opts.ReserveBytes,
	}, nil
}

// Largest is the size of the largest volume of that kind that Create would make now; 0 is none. It
// costs two system calls. Errors: ErrUnavailable when the disk has failed.
func (p *Pool) Largest(s volume.Spec) (int64, error) {
	s = s.DecideFor(p.backend)
	if p.checkInodes(s) != nil {
		return 0, nil //nolint:nilerr // what cannot be made has no room
	}
	r, err := p.room()
	if err != nil {
		return 0, p.wrap(err)
	}
	return s.Largest(p.ledger.Available(r)), nil
}

// unwrittenNow returns how many promised bytes are not written now. It reads the usage of each
// volume.
func (p *Pool) unwrittenNow() (sum int64) {
	const pageSize = 512
	for after := ""; ; {
		page := p.volumes.catalog.After(after, pageSize)
		for _, e := range page {
			if e.EnforcesSize() {
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
// it. Bytes that the volume's snapshots charge to it do not count as the volume's.
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
	own := max(0, allocated-p.accounts.Charged(catalog.AccountOf(v)))
	return max(0, v.PromisedBytes()-own)
}
