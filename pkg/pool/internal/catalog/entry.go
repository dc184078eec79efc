package catalog

import (
	"math"
	"time"
	"unique"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Entry is what memory keeps of a volume or of a snapshot: what a list or a call needs. A pool may
// have hundreds of thousands of entries, so the rest stays in the record. An entry that is in a
// catalog never changes: Put replaces it by another one.
type Entry struct {
	// Dir is the directory of the volume or of the snapshot, and its key.
	Dir string
	// ParentID is the ID of a snapshot's volume, the UID of an inline volume's pod, or GitParentID;
	// else "".
	ParentID string
	// PromisedBytes is what the ledger counts.
	PromisedBytes int64
	QuotaID       volume.QuotaID
	// IsEnforced: the volume cannot grow beyond its size. Of a damaged volume it says nothing.
	IsEnforced bool
	// IsUnsynced: the record on the disk says the same, and an fsync of its replacement has failed.
	IsUnsynced bool

	// isFormatting: a filesystem is being made in the image.
	isFormatting bool
	created      instant
	// sourceQuotaID and sourceCreated are a snapshot's.
	sourceQuotaID volume.QuotaID
	sourceCreated instant
	spec          unique.Handle[volume.Spec]
	// sizeBytes is CapacityBytes of a volume, RestoreBytes of a snapshot.
	sizeBytes       int64
	filesystemBytes int64
	// rare is nil for most.
	rare *rareFacts
}

// rareFacts is what few volumes and snapshots have.
type rareFacts struct {
	name   volume.Name // if it differs from the name of the directory
	source volume.Source
	owner  volume.Owner // of an inline volume, and of content of git
	// mutable is a volume's.
	mutable volume.Mutable
	// group is a snapshot's, the zero handle for one that was taken alone. A group names all of its
	// volumes, so its snapshots share one copy of it.
	group unique.Handle[volume.SnapshotGroup]
	// damaged says why the record cannot be used. The entry stays in the catalog, so that its name is
	// not given to a new volume. Only the quota ID of the entry is known.
	damaged error
}

// GitParentID is the parent of all content of git. No pod has such a UID.
const GitParentID = "git"

// instant is a time in Unix nanoseconds, a third of a time.Time. Equal times are equal instants.
type instant int64

const noInstant = instant(math.MinInt64)

// instantOf converts a time, also the zero time.
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

// Damaged says why the record of an entry cannot be used; nil if it can.
func (e *Entry) Damaged() error {
	if e.rare == nil {
		return nil
	}
	return e.rare.damaged
}

// Spec is the specification; zero for a damaged entry.
func (e *Entry) Spec() volume.Spec { return e.spec.Value() }

// EnforcesSize says that a volume is not damaged, and cannot grow beyond its size.
func (e *Entry) EnforcesSize() bool { return e.Damaged() == nil && e.IsEnforced }

// Group is the group of a snapshot; zero for one that was taken alone, and for a damaged one.
func (e *Entry) Group() volume.SnapshotGroup {
	if e.rare == nil || e.rare.group == (unique.Handle[volume.SnapshotGroup]{}) {
		return volume.SnapshotGroup{}
	}
	return e.rare.group.Value()
}

func (e *Entry) name() volume.Name {
	if e.rare != nil && e.rare.name != (volume.Name{}) {
		return e.rare.name
	}
	name, _ := volume.ParseName(e.Dir)
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

// TrashRetention is how long a deleted volume stays in the trash.
func (e *Entry) TrashRetention() volume.Retention {
	if e.rare == nil {
		return ""
	}
	return e.rare.mutable.TrashRetention
}

// NewDamaged is the entry of a directory whose record cannot be used.
func NewDamaged(dir string, why error) *Entry {
	return &Entry{Dir: dir, spec: unique.Make(volume.Spec{}), rare: &rareFacts{damaged: why}}
}

// NewVolume is the entry of a volume.
func NewVolume(v volume.Volume) *Entry {
	rare := rareFacts{name: v.Name, source: v.Source, mutable: v.Mutable}
	parentID := v.Owner.PodUID
	if v.IsGitContent() {
		parentID = GitParentID
	}
	if parentID != "" {
		rare.owner = v.Owner
	}
	return &Entry{
		Dir:             v.ID.Dir(),
		ParentID:        parentID,
		PromisedBytes:   v.PromisedBytes(),
		QuotaID:         v.QuotaID,
		isFormatting:    v.Formatting,
		created:         instantOf(v.Created),
		spec:            unique.Make(v.Spec),
		sizeBytes:       v.CapacityBytes,
		filesystemBytes: v.FilesystemBytes,
		rare:            newRareFacts(rare, v.ID.Dir()),
	}
}

// Volume returns the volume of the entry in that pool: all but the owner of a volume that is a
// claim's. Of a damaged volume only ID and quota ID are known.
func (e *Entry) Volume(pool volume.PoolID) volume.Volume {
	id, _ := volume.IDFromDir(pool, e.Dir) // a directory of the catalog is one
	if e.Damaged() != nil {
		return volume.Volume{ID: id, QuotaID: e.QuotaID}
	}
	v := volume.Volume{
		ID:              id,
		Name:            e.name(),
		Spec:            e.Spec(),
		CapacityBytes:   e.sizeBytes,
		SharedBytes:     e.PromisedBytes - e.sizeBytes,
		Created:         e.created.time(),
		QuotaID:         e.QuotaID,
		FilesystemBytes: e.filesystemBytes,
		Formatting:      e.isFormatting,
	}
	if e.rare != nil {
		v.Source, v.Owner, v.Mutable = e.rare.source, e.rare.owner, e.rare.mutable
	}
	return v
}

// NewSnapshot is the entry of a snapshot.
func NewSnapshot(s volume.Snapshot) *Entry {
	rare := rareFacts{name: s.Name}
	if s.Group != (volume.SnapshotGroup{}) {
		rare.group = unique.Make(s.Group)
	}
	return &Entry{
		Dir:             s.ID.Dir(),
		ParentID:        s.Source.String(),
		PromisedBytes:   ledger.OfSnapshot(s.HeldBytes, 0), // older records may say less
		QuotaID:         s.QuotaID,
		sourceQuotaID:   s.SourceQuotaID,
		sourceCreated:   instantOf(s.SourceCreated),
		isFormatting:    s.Formatting,
		created:         instantOf(s.Created),
		spec:            unique.Make(s.Spec),
		sizeBytes:       s.RestoreBytes,
		filesystemBytes: s.FilesystemBytes,
		rare:            newRareFacts(rare, s.ID.Dir()),
	}
}

// Snapshot returns the snapshot of the entry in that pool: all but the owner. Of a damaged snapshot
// only ID and quota ID are known.
func (e *Entry) Snapshot(pool volume.PoolID) volume.Snapshot {
	id, _ := volume.SnapshotIDFromDir(pool, e.Dir) // a directory of the catalog is one
	if e.Damaged() != nil {
		return volume.Snapshot{ID: id, QuotaID: e.QuotaID}
	}
	source, _ := volume.ParseID(e.ParentID)
	return volume.Snapshot{
		ID:              id,
		Name:            e.name(),
		Source:          source,
		SourceCreated:   e.sourceCreated.time(),
		Spec:            e.Spec(),
		RestoreBytes:    e.sizeBytes,
		HeldBytes:       e.PromisedBytes,
		Created:         e.created.time(),
		QuotaID:         e.QuotaID,
		SourceQuotaID:   e.sourceQuotaID,
		FilesystemBytes: e.filesystemBytes,
		Formatting:      e.isFormatting,
		Group:           e.Group(),
	}
}
