package pool

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// VolumeDetails is a volume with its owner, which only its record has, and with what it holds.
type VolumeDetails struct {
	volume.Volume

	// IsDamaged: the record cannot be used. Only ID, QuotaID and Faults are known.
	IsDamaged bool
	// EnforcesSize: the volume cannot grow beyond its size.
	EnforcesSize bool
	Faults       []volume.Fault
	// HeldBytes is what the volume occupies; of an image, what its file does. nil: nobody counts that,
	// or the disk has not said it.
	HeldBytes *int64
	// HeldInodes is how many files and directories the volume has. nil: as HeldBytes, or their number
	// is not limited.
	HeldInodes *int64
}

// Details is List with the details of the volumes. It reads the record of each, and asks for its
// use.
func (p *Pool) Details(afterDir string, limit int) []VolumeDetails {
	entries := p.volumes.catalog.After(afterDir, limit)
	details := make([]VolumeDetails, 0, len(entries))
	for _, e := range entries {
		details = append(details, p.detailsOf(e))
	}
	return details
}

// DetailsOf is Details of one volume. Errors: ErrNotFound.
func (p *Pool) DetailsOf(id volume.ID) (VolumeDetails, error) {
	e, err := p.volumes.find(id)
	if e == nil {
		return VolumeDetails{}, err
	}
	return p.detailsOf(e), nil
}

func (p *Pool) detailsOf(e *catalog.Entry) VolumeDetails {
	d := VolumeDetails{
		Volume: p.volumes.unpack(e), EnforcesSize: e.EnforcesSize(), Faults: p.faultsOf(e),
	}
	if e.Damaged() != nil {
		d.IsDamaged = true
		return d
	}
	if v, err := p.volumes.read(p.volumes.dir, e.Dir, e.Dir); err == nil {
		d.Owner = v.Owner
	}
	d.HeldBytes, d.HeldInodes = p.heldBy(d.Volume)
	return d
}

// heldBy is what a volume holds, as far as anybody counts that.
func (p *Pool) heldBy(v volume.Volume) (bytes, inodes *int64) {
	of := p.backendOf(v.Spec)
	counter, ok := of.(backend.Counter)
	if !ok {
		return nil, nil
	}
	data, err := backend.OpenDataIn(p.volumes.dir, v.ID.Dir(), unix.O_PATH)
	if err != nil {
		return nil, nil
	}
	defer data.Close()
	if held, err := counter.Allocated(data, v.QuotaID); err == nil {
		bytes = &held
	}
	if v.LimitedSpec().Inodes == 0 || bytes == nil {
		return bytes, nil
	}
	if u, err := of.Usage(data, v.QuotaID); err == nil {
		inodes = &u.UsedInodes
	}
	return bytes, inodes
}

// SnapshotDetails is a snapshot with its owner, which only its record has.
func (p *Pool) SnapshotDetails(afterDir string, limit int) []volume.Snapshot {
	return p.withOwners(p.ListSnapshots(afterDir, limit))
}

// SnapshotDetailsOf is SnapshotDetails for the snapshots of one volume, which may be gone.
func (p *Pool) SnapshotDetailsOf(
	source volume.ID, afterDir string, limit int,
) []volume.Snapshot {
	return p.withOwners(p.ListSnapshotsOf(source, afterDir, limit))
}

func (p *Pool) withOwners(snapshots []volume.Snapshot) []volume.Snapshot {
	for i, s := range snapshots {
		if s.IsDamaged() {
			continue
		}
		if read, err := p.snapshots.read(p.snapshots.dir, s.ID.Dir(), s.ID.Dir()); err == nil {
			snapshots[i].Owner = read.Owner
		}
	}
	return snapshots
}

// TrashEntry is a deleted or unfinished volume or snapshot that is not purged.
type TrashEntry struct {
	// Key is where the entry is in the list.
	Key TrashKey
	// Name is the entry's in trash/, or in the directory in which it was deleted or not finished.
	Name string
	// ID is the one that the volume or snapshot had. Empty: it was never finished.
	ID         string
	IsSnapshot bool
	// Owner is a volume's. Zero: the record does not say it, or is gone.
	Owner volume.Owner
	// CapacityBytes is a volume's size, and IsBlock whether it was a raw block volume. CapacityBytes
	// is 0: the record cannot be read.
	CapacityBytes int64
	IsBlock       bool
	PromisedBytes int64
	Deleted, Due  time.Time
	// Retained: the entry is whole, and stays until it is due. Failing: its purge has failed, and
	// begins again when it is due. Neither: it is being purged.
	Retained, Failing bool
}

// TrashKey is where an entry is in the list of the trash. The zero TrashKey is before all others.
type TrashKey = trash.Key

// TrashEntries lists at most limit entries of the trash after a key, in the order in which they are
// due. The cost grows with the part, not with the trash.
func (p *Pool) TrashEntries(after TrashKey, limit int) []TrashEntry {
	listed := p.trash.List(after, limit)
	entries := make([]TrashEntry, 0, len(listed))
	for _, l := range listed {
		entries = append(entries, p.trashEntry(l))
	}
	return entries
}

func (p *Pool) trashEntry(l trash.Listed) TrashEntry {
	e := TrashEntry{
		Key: l.Key(), Name: l.Name, PromisedBytes: l.Bytes, Deleted: l.Since, Due: l.Due,
		Retained: l.State == trash.Retained, Failing: l.State == trash.Failing,
	}
	dir, isSnapshot := p.snapshotDirOf(l.Entry)
	e.IsSnapshot = isSnapshot
	if l.In == p.layout.Tmp {
		return e
	}
	if isSnapshot {
		if id, err := volume.SnapshotIDFromDir(p.id, dir); err == nil {
			e.ID = id.String()
		}
		return e
	}
	if id, err := volume.IDFromDir(p.id, l.OriginalName); err == nil {
		e.ID = id.String()
	}
	if v, err := p.volumes.read(l.In, l.Name, l.OriginalName); err == nil {
		e.Owner, e.CapacityBytes, e.IsBlock = v.Owner, v.CapacityBytes, v.Spec.IsBlock()
	}
	return e
}

// CopyDetails is a copy that is under way.
type CopyDetails struct {
	// What is what is made: "volume ID", "snapshot ID" or "group snapshot ID".
	What  string
	Began time.Time
	// Source is the ID of what is copied. Empty: several.
	Source                   string
	CopiedBytes, CopiedFiles int64
	// TotalBytes is about how much is to be copied: what the source occupies. nil: nobody counts that.
	TotalBytes *int64
}

// Copies lists the copies that are under way, in no order.
func (p *Pool) Copies() []CopyDetails {
	all := p.jobs.UnderWay()
	details := make([]CopyDetails, 0, len(all))
	for _, w := range all {
		stats := w.Progress.Stats()
		d := CopyDetails{
			What: w.Key, Began: w.Began, CopiedBytes: stats.Bytes, CopiedFiles: stats.Files,
		}
		switch r := w.Request.(type) {
		case volume.CreateRequest:
			d.Source = r.Source.String()
			if id, ok := r.Source.Snapshot(); ok {
				d.TotalBytes = p.heldBySnapshot(id)
			} else if id, ok := r.Source.Volume(); ok {
				d.TotalBytes = p.heldByVolume(id)
			}
		case volume.SnapshotRequest:
			d.Source = r.Source.String()
			d.TotalBytes = p.heldByVolume(r.Source)
		}
		details = append(details, d)
	}
	return details
}

// heldByVolume is nil for a volume of another pool.
func (p *Pool) heldByVolume(id volume.ID) *int64 {
	v, err := p.Get(id)
	if err != nil {
		return nil
	}
	bytes, _ := p.heldBy(v.Volume)
	return bytes
}

func (p *Pool) heldBySnapshot(id volume.SnapshotID) *int64 {
	s, err := p.GetSnapshot(id)
	if err != nil {
		return nil
	}
	return &s.HeldBytes
}
