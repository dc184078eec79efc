package pool

import (
	"math"
	"time"
	"unique"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// entry is a volume or a snapshot in memory. A snapshot belongs to its volume (the ID as a string),
// and an inline volume to its pod (the UID).
type entry = catalog.Entry[facts]

// facts is what memory keeps of a volume or of a snapshot: what a list or a call needs. A pool may
// have hundreds of thousands of them, so the rest stays in the record.
type facts struct {
	spec unique.Handle[volume.Spec]
	// sizeBytes is CapacityBytes of a volume, RestoreBytes of a snapshot.
	sizeBytes int64
	// promisedBytes is what the ledger counts.
	promisedBytes   int64
	filesystemBytes int64
	created         instant
	quotaID         volume.QuotaID
	// sourceCreated and sourceQuotaID are a snapshot's.
	sourceCreated instant
	sourceQuotaID volume.QuotaID
	// rare is nil for most.
	rare *rareFacts
	// isUnenforced: the volume can grow beyond its size.
	isUnenforced bool
	// isUnsynced: the record on the disk says the same, and an fsync of its exchange has failed.
	isUnsynced bool
	// isFormatting: a filesystem is being made in the image.
	isFormatting bool
}

// rareFacts is what few volumes and snapshots have.
type rareFacts struct {
	name   volume.Name // if it differs from the name of the directory
	source volume.Source
	owner  volume.Owner // of an inline volume
	// damaged says why the record cannot be used. The entry stays in the catalog, so that its name is
	// not given to a new volume. Only the quota ID of the entry is known.
	damaged error
}

// instant is a time in Unix nanoseconds, a third of a time.Time.
type instant int64

const noInstant = instant(math.MinInt64)

func instantOf(t time.Time) instant {
	if t.IsZero() {
		return noInstant
	}
	return instant(t.UnixNano())
}

func (i instant) time() time.Time {
	if i == noInstant {
		return time.Time{}
	}
	return time.Unix(0, int64(i)).UTC()
}

// damaged says why the record of an entry cannot be used; nil if it can.
func (f facts) damaged() error {
	if f.rare == nil {
		return nil
	}
	return f.rare.damaged
}

// isHeldToSize says that a volume is whole, and cannot grow beyond its size.
func (f facts) isHeldToSize() bool { return f.damaged() == nil && !f.isUnenforced }

// name is the name of what has that directory.
func (f facts) name(dir string) volume.Name {
	if f.rare != nil && f.rare.name != (volume.Name{}) {
		return f.rare.name
	}
	name, _ := volume.ParseName(dir)
	return name
}

func newRareFacts(rare rareFacts, dir string) *rareFacts {
	if rare.name.String() == dir {
		rare.name = volume.Name{}
	}
	if rare == (rareFacts{}) {
		return nil
	}
	return &rare
}

// damagedEntry is the entry of a directory whose record cannot be used.
func damagedEntry(dir string, why error) *entry {
	return &entry{
		Dir:   dir,
		Value: facts{spec: unique.Make(volume.Spec{}), rare: &rareFacts{damaged: why}},
	}
}

// entryOf is what memory keeps of a volume.
func (p *Pool) entryOf(v volume.Volume) *entry {
	rare := rareFacts{name: v.Name, source: v.Source}
	if v.IsInline() {
		rare.owner = v.Owner
	}
	return &entry{
		Dir: v.ID.Dir(),
		Of:  v.Owner.PodUID,
		Value: facts{
			spec:            unique.Make(v.Spec),
			sizeBytes:       v.CapacityBytes,
			promisedBytes:   v.PromisedBytes(),
			filesystemBytes: v.FilesystemBytes,
			created:         instantOf(v.Created),
			quotaID:         v.QuotaID,
			rare:            newRareFacts(rare, v.ID.Dir()),
			isUnenforced:    !p.backendOf(v.Spec).Enforces(),
			isFormatting:    v.Formatting,
		},
	}
}

// volumeOf is a volume as memory has it: all but the owner of one that does not live with a pod. Of
// a damaged volume only ID and quota ID are known.
func (p *Pool) volumeOf(e *entry) volume.Volume {
	id, _ := volume.IDFromDir(p.id, e.Dir) // a directory of the catalog is one
	f := e.Value
	if f.damaged() != nil {
		return volume.Volume{ID: id, QuotaID: f.quotaID}
	}
	v := volume.Volume{
		ID:              id,
		Name:            f.name(e.Dir),
		Spec:            f.spec.Value(),
		CapacityBytes:   f.sizeBytes,
		SharedBytes:     f.promisedBytes - f.sizeBytes,
		Created:         f.created.time(),
		QuotaID:         f.quotaID,
		FilesystemBytes: f.filesystemBytes,
		Formatting:      f.isFormatting,
	}
	if f.rare != nil {
		v.Source, v.Owner = f.rare.source, f.rare.owner
	}
	return v
}

// entryOfSnapshot is what memory keeps of a snapshot.
func entryOfSnapshot(s volume.Snapshot) *entry {
	return &entry{
		Dir: s.ID.Dir(),
		Of:  s.Source.String(),
		Value: facts{
			spec:            unique.Make(s.Spec),
			sizeBytes:       s.RestoreBytes,
			promisedBytes:   heldAtLeast(s.HeldBytes, 0), // older records may say less
			filesystemBytes: s.FilesystemBytes,
			created:         instantOf(s.Created),
			quotaID:         s.QuotaID,
			sourceCreated:   instantOf(s.SourceCreated),
			sourceQuotaID:   s.SourceQuotaID,
			rare:            newRareFacts(rareFacts{name: s.Name}, s.ID.Dir()),
			isFormatting:    s.Formatting,
		},
	}
}

// snapshotOf is a snapshot as memory has it: all but the owner. Of a damaged snapshot only ID and
// quota ID are known.
func (p *Pool) snapshotOf(e *entry) volume.Snapshot {
	id, _ := volume.SnapshotIDFromDir(p.id, e.Dir) // a directory of the catalog is one
	f := e.Value
	if f.damaged() != nil {
		return volume.Snapshot{ID: id, QuotaID: f.quotaID}
	}
	source, _ := volume.ParseID(e.Of)
	return volume.Snapshot{
		ID:              id,
		Name:            f.name(e.Dir),
		Source:          source,
		SourceCreated:   f.sourceCreated.time(),
		Spec:            f.spec.Value(),
		RestoreBytes:    f.sizeBytes,
		HeldBytes:       f.promisedBytes,
		Created:         f.created.time(),
		QuotaID:         f.quotaID,
		SourceQuotaID:   f.sourceQuotaID,
		FilesystemBytes: f.filesystemBytes,
		Formatting:      f.isFormatting,
	}
}
