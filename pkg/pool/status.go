package pool

import "github.com/csi-hostpath/csi-hostpath/pkg/volume"

// Status is a pool at a glance, for the metrics. Sizes are in bytes.
type Status struct {
	SizeBytes      int64 // of the filesystem
	UsedBytes      int64 // of the filesystem, by volumes and by others
	FreeBytes      int64 // of the filesystem
	AvailableBytes int64 // what the next volume may have at most
	CommittedBytes int64 // promised to volumes and snapshots
	TrashBytes     int64 // deleted, not purged yet
	TrashEntries   int   // which those bytes belong to
	Volumes        int
	Snapshots      int
	SnapshotBytes  int64 // promised to snapshots, of CommittedBytes
	Copies         int   // snapshots, restores and clones that are being made
	CopiedBytes    int64 // by those
	Unenforced     int   // volumes that can grow beyond their size
	PurgesFailing  int   // deleted volumes whose data could not be removed yet
	GrowthsFailing int   // volumes whose filesystem could not be grown to their size
	Retired        int   // quota IDs of deleted volumes for which something else counts
	Overcharged    int   // full volumes for which more counts than their files
	// Faults are the numbers of volumes with each fault of volume.PoolFaults.
	Faults map[volume.Fault]int
}

// Check says whether the pool can be used. It costs a few system calls, whatever the pool has.
// Errors: ErrUnavailable when the disk has failed.
func (p *Pool) Check() error {
	if _, err := p.room(); err != nil {
		return p.wrap(err)
	}
	return nil
}

// Status costs two system calls. Errors: ErrUnavailable when the disk has failed.
func (p *Pool) Status() (Status, error) {
	r, err := p.room()
	if err != nil {
		return Status{}, p.wrap(err)
	}
	committed, trash := p.ledger.Counts()
	copies, copied := p.jobs.Count()
	faults := p.countFaults()
	return Status{
		SizeBytes:      r.Size,
		UsedBytes:      r.Used,
		FreeBytes:      r.Free,
		AvailableBytes: p.ledger.Available(r),
		CommittedBytes: committed,
		TrashBytes:     trash,
		TrashEntries:   p.trash.Len(),
		Volumes:        p.volumes.catalog.Len(),
		Snapshots:      p.snapshots.catalog.Len(),
		SnapshotBytes:  p.snapshots.catalog.Sum(),
		Copies:         copies,
		CopiedBytes:    copied,
		Unenforced:     int(p.volumes.catalog.Sum()),
		PurgesFailing:  p.trash.Failures(),
		GrowthsFailing: faults[volume.FaultGrowthFailed],
		Retired:        p.trash.Retired(),
		Overcharged:    faults[volume.FaultOvercharged],
		Faults:         faults,
	}, nil
}
