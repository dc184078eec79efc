package pool

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// AnyData returns the data of a volume as Data does, also if the volume's record cannot be used.
// Errors: ErrNotFound.
func (p *Pool) AnyData(id volume.ID) (*os.File, error) {
	p.calls.Enter()
	defer p.calls.Leave()
	f, err := backend.OpenDataIn(p.volumes.dir, id.Dir(), unix.O_PATH)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: volume %s has no %s", volume.ErrNotFound, id, backend.Data)
	}
	return f, err
}

func checkFileType(f *os.File, s volume.Spec) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	want := uint32(unix.S_IFDIR)
	if s.Type == volume.FileOrCreate || s.IsImage() {
		want = unix.S_IFREG
	}
	if got := st.Mode & unix.S_IFMT; got != want {
		return fmt.Errorf("it has file type %#o, that of %+v has %#o", got, s, want)
	}
	return nil
}

// Largest is the size of the largest volume of that kind that Create would make now; 0 is none. It
// costs two system calls. Errors: ErrUnavailable when the disk has failed.
func (p *Pool) Largest(s volume.Spec) (int64, error) {
	if p.checkInodes(s) != nil {
		return 0, nil //nolint:nilerr // what cannot be made has no room
	}
	r, err := p.room()
	if err != nil {
		return 0, p.wrap(err)
	}
	return s.Largest(p.ledger.Available(r)), nil
}

// Status is a pool at a glance, for the metrics. Sizes are in bytes.
type Status struct {
	SizeBytes      int64 // of the filesystem
	UsedBytes      int64 // of the filesystem, by volumes and by others
	FreeBytes      int64 // of the filesystem
	AvailableBytes int64 // what the next volume may have at most
	CommittedBytes int64 // promised to volumes and snapshots
	TrashBytes     int64 // deleted, not purged yet
	Volumes        int
	Snapshots      int
	SnapshotBytes  int64 // promised to snapshots, of CommittedBytes
	Copies         int   // snapshots, restores and clones that are being made
	CopiedBytes    int64 // by those
	Unenforced     int   // volumes that can grow beyond their size
	PurgesFailing  int   // deleted volumes whose data could not be removed yet
	GrowthsFailing int   // volumes whose filesystem could not be grown to their size
	Retired        int   // quota IDs of deleted volumes for which something else counts
}

// Status costs two system calls. Errors: ErrUnavailable when the disk has failed.
func (p *Pool) Status() (Status, error) {
	r, err := p.room()
	if err != nil {
		return Status{}, p.wrap(err)
	}
	committed, trash := p.ledger.Counts()
	copies, copied := p.jobs.Count()
	return Status{
		SizeBytes:      r.Size,
		UsedBytes:      r.Used,
		FreeBytes:      r.Free,
		AvailableBytes: p.ledger.Available(r),
		CommittedBytes: committed,
		TrashBytes:     trash,
		Volumes:        p.volumes.catalog.Len(),
		Snapshots:      p.snapshots.catalog.Len(),
		SnapshotBytes:  p.snapshots.catalog.Sum(),
		Copies:         copies,
		CopiedBytes:    copied,
		Unenforced:     int(p.volumes.catalog.Sum()),
		PurgesFailing:  p.trash.Failures(),
		GrowthsFailing: len(p.GrowthFailures()),
		Retired:        p.trash.Retired(),
	}, nil
}
