package volume

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// SnapshotID is a snapshot's ID: the pool that holds it and its directory there. IDs compare with
// ==. The zero SnapshotID names nothing.
type SnapshotID struct {
	pool PoolID
	dir  string
}

// NewSnapshotID is the ID of the named snapshot in a pool.
func NewSnapshotID(
	pool PoolID, name Name,
) SnapshotID {
	return SnapshotID{pool: pool, dir: name.dir}
}

// ParseSnapshotID reads "<12 hex>-s-<directory>", which no volume's ID looks like: a volume whose
// name begins with "s-" has a hashed directory. What it returns is safe to use as a path component.
// Errors: as ParseID.
func ParseSnapshotID(s string) (SnapshotID, error) {
	const prefix = poolIDDigits + 1 + len(snapshotPrefix)
	if s == "" {
		return SnapshotID{}, fmt.Errorf("%w: snapshot ID is empty", ErrInvalid)
	}
	if len(s) > MaxNameBytes {
		return SnapshotID{}, fmt.Errorf("%w: snapshot ID has %d bytes, at most %d are allowed",
			ErrInvalid, len(s), MaxNameBytes)
	}
	if len(s) <= prefix || s[poolIDDigits:prefix] != "-"+snapshotPrefix || !isHex(s[:poolIDDigits]) ||
		!isDir(s[prefix:]) {
		return SnapshotID{}, fmt.Errorf(
			"%w: %q is not a snapshot ID of this driver: want <12 hex digits of the pool's UUID>-%s<name>",
			ErrNotFound,
			s,
			snapshotPrefix,
		)
	}
	return SnapshotID{pool: PoolID(s[:poolIDDigits]), dir: s[prefix:]}, nil
}

// SnapshotIDFromDir is the ID of a snapshot found on disk. Errors: ErrCorrupt, for a directory that
// no snapshot can have.
func SnapshotIDFromDir(pool PoolID, dir string) (SnapshotID, error) {
	if !isDir(dir) {
		return SnapshotID{}, fmt.Errorf("%w: %q is not the directory of a snapshot", ErrCorrupt, dir)
	}
	return SnapshotID{pool: pool, dir: dir}, nil
}

// Pool is the pool that holds the snapshot.
func (id SnapshotID) Pool() PoolID { return id.pool }

// Dir is the snapshot's directory in its pool: one safe path component.
func (id SnapshotID) Dir() string { return id.dir }

// String is the form that CSI calls carry, at most 79 bytes; empty for the zero ID.
func (id SnapshotID) String() string {
	if id == (SnapshotID{}) {
		return ""
	}
	return string(id.pool) + "-" + snapshotPrefix + id.dir
}

// Compare orders IDs by pool and directory: the order in which they are listed.
func (id SnapshotID) Compare(other SnapshotID) int {
	return cmp.Or(cmp.Compare(id.pool, other.pool), cmp.Compare(id.dir, other.dir))
}

// Snapshot is what a pool knows of one snapshot. It is a value, and nothing of it ever changes.
type Snapshot struct {
	ID SnapshotID
	// Name is what the caller of CreateSnapshot chose.
	Name Name
	// Source is the volume it is of, which may be gone.
	Source ID
	// SourceCreated is when that was made: a later one of that name is another volume.
	SourceCreated time.Time
	// Spec is that of the source.
	Spec Spec
	// RestoreBytes is the least size of a volume that is made from it: the source's size at that
	// time.
	RestoreBytes int64
	// HeldBytes is what it can keep from being freed, and what the pool counts for it.
	HeldBytes int64
	// Created is when it was taken: what was written before is in it. What is copied file by file
	// may also have what came later.
	Created time.Time
	Owner   SnapshotOwner
	// QuotaID is what the filesystem counts its own blocks under; 0 where it counts none.
	QuotaID QuotaID
	// SourceQuotaID is what it counts those under that the snapshot shares with its source; 0 where
	// it shares none.
	SourceQuotaID QuotaID
	// FilesystemBytes and Formatting are as in the source.
	FilesystemBytes int64
	Formatting      bool
	// Group says with which others it was taken, at the same moment; zero for a snapshot that was
	// taken alone. A member is deleted with its group only.
	Group SnapshotGroup
}

// IsDamaged says that the record of a snapshot makes no sense: then only its ID is known.
func (s Snapshot) IsDamaged() bool { return s.Name == Name{} }

// SnapshotOwner says whose snapshot it is, for the person who reads the record. All fields may be
// empty.
type SnapshotOwner struct {
	Namespace string `json:"namespace,omitempty"`
	Snapshot  string `json:"snapshot,omitempty"`
	Content   string `json:"content,omitempty"`

	// GroupSnapshot and GroupContent are those of a snapshot that was taken with others.
	GroupSnapshot string `json:"groupSnapshot,omitempty"`
	GroupContent  string `json:"groupContent,omitempty"`
}

// SnapshotRequest is what CreateSnapshot asks of a pool.
type SnapshotRequest struct {
	Name   Name
	Source ID
	Owner  SnapshotOwner
}

// CheckAnsweredBy says whether an existing snapshot is what the request asks for. Errors:
// ErrIncompatible (CSI spec, CreateSnapshot: ALREADY_EXISTS).
func (r SnapshotRequest) CheckAnsweredBy(s Snapshot) error {
	switch {
	case s.Name != r.Name:
		return fmt.Errorf("%w: snapshot %s has the name %q; requested: %q", ErrIncompatible, s.ID, s.Name,
			r.Name)
	case s.Group != SnapshotGroup{}:
		return fmt.Errorf("%w: snapshot %s is one of group snapshot %q", ErrIncompatible, s.ID,
			s.Group.Name)
	case s.Source != r.Source:
		return fmt.Errorf("%w: snapshot %s is of volume %s; requested: of volume %s", ErrIncompatible,
			s.ID, s.Source, r.Source)
	default:
		return nil
	}
}

// What external-snapshotter adds with --extra-create-metadata; kept in the record for people.
const (
	ParamSnapshotName      = "csi.storage.k8s.io/volumesnapshot/name"
	ParamSnapshotNamespace = "csi.storage.k8s.io/volumesnapshot/namespace"
	ParamSnapshotContent   = "csi.storage.k8s.io/volumesnapshotcontent/name"
)

// ParseSnapshotParameters reads the parameters of a VolumeSnapshotClass: none are known, and what
// is given there by mistake is refused, not ignored. Errors: ErrInvalid, naming the key.
func ParseSnapshotParameters(params map[string]string) (SnapshotOwner, error) {
	var o SnapshotOwner
	fields := map[string]*string{
		ParamSnapshotName:      &o.Snapshot,
		ParamSnapshotNamespace: &o.Namespace,
		ParamSnapshotContent:   &o.Content,
	}
	for _, key := range slices.Sorted(maps.Keys(params)) {
		field, known := fields[key]
		if !known {
			return SnapshotOwner{}, fmt.Errorf(
				"%w: unknown parameter %q; a VolumeSnapshotClass of this driver has none",
				ErrInvalid,
				key,
			)
		}
		*field = params[key]
	}
	return o, nil
}
