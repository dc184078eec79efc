package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// groupSnapshotPrefix begins the ID of a group snapshot. No pool's ID has such digits, so no string
// is the ID of a group snapshot and of a volume or a snapshot.
const groupSnapshotPrefix = "group-"

// memberPrefix begins the names of the snapshots of a group.
const memberPrefix = "g-"

// MaxGroupVolumes is how many volumes a group snapshot may have. The records of its members name
// all of them, and the writers of all wait for one another.
const MaxGroupVolumes = 64

// GroupSnapshotID is the ID of a group snapshot: the pool that holds its snapshots, and the
// directory name of its own name, although there is no such directory. IDs compare with ==.
type GroupSnapshotID struct {
	pool PoolID
	dir  string
}

// NewGroupSnapshotID is the ID of the named group snapshot in a pool.
func NewGroupSnapshotID(pool PoolID, name Name) GroupSnapshotID {
	return GroupSnapshotID{pool: pool, dir: name.dir}
}

// ParseGroupSnapshotID reads "group-<12 hex>-<name>". Errors: as ParseID.
func ParseGroupSnapshotID(s string) (GroupSnapshotID, error) {
	if s == "" {
		return GroupSnapshotID{}, fmt.Errorf("%w: group snapshot ID is empty", ErrInvalid)
	}
	rest, ok := strings.CutPrefix(s, groupSnapshotPrefix)
	id, err := ParseID(rest)
	if !ok || err != nil {
		return GroupSnapshotID{}, fmt.Errorf(
			"%w: %.128q is not a group snapshot ID of this driver: "+
				"want %s<12 hex digits of the pool's UUID>-<name>", ErrNotFound, s, groupSnapshotPrefix)
	}
	return GroupSnapshotID(id), nil
}

// Pool is the pool that holds the snapshots of the group.
func (id GroupSnapshotID) Pool() PoolID { return id.pool }

// Dir is what stands in the ID for the name of the group. It locks the group.
func (id GroupSnapshotID) Dir() string { return id.dir }

// String is the form that CSI calls carry, at most 83 bytes; empty for the zero ID.
func (id GroupSnapshotID) String() string {
	if id == (GroupSnapshotID{}) {
		return ""
	}
	return groupSnapshotPrefix + string(id.pool) + "-" + id.dir
}

// SnapshotGroup says with which others a snapshot was taken. Values compare with ==. The zero value
// is that of a snapshot that was taken alone.
type SnapshotGroup struct {
	// Name is what the caller of CreateVolumeGroupSnapshot chose.
	Name Name
	// sources has the IDs of the volumes in their order, joined by groupSeparator, which no ID has.
	sources string
}

const groupSeparator = " "

// NewSnapshotGroup is the group of that name of the snapshots of these volumes. Errors: ErrInvalid
// when a volume is named twice, when there are too many of them, or none.
func NewSnapshotGroup(name Name, sources []ID) (SnapshotGroup, error) {
	switch {
	case len(sources) == 0:
		return SnapshotGroup{}, fmt.Errorf("%w: a group snapshot of no volumes", ErrInvalid)
	case len(sources) > MaxGroupVolumes:
		return SnapshotGroup{}, fmt.Errorf("%w: a group snapshot of %d volumes, at most %d are allowed",
			ErrInvalid, len(sources), MaxGroupVolumes)
	}
	ids := make([]string, len(sources))
	for i, source := range sources {
		ids[i] = source.String()
	}
	slices.Sort(ids)
	for i := range ids[1:] {
		if ids[i] == ids[i+1] {
			return SnapshotGroup{}, fmt.Errorf("%w: a group snapshot with volume %s twice", ErrInvalid,
				ids[i])
		}
	}
	return SnapshotGroup{Name: name, sources: strings.Join(ids, groupSeparator)}, nil
}

// Sources are the volumes of which the group has snapshots, in the order of their IDs.
func (g SnapshotGroup) Sources() []ID {
	var sources []ID
	for s := range strings.SplitSeq(g.sources, groupSeparator) {
		if id, err := ParseID(s); err == nil {
			sources = append(sources, id)
		}
	}
	return sources
}

// MemberName is the name of the group's snapshot of a volume. It follows from the names of both, so
// a repeated request finds the snapshots of the first one.
func (g SnapshotGroup) MemberName(source ID) Name { return MemberName(g.Name, source) }

// MemberName is the name of the snapshot of a volume in the group of that name.
func MemberName(group Name, source ID) Name {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", group, source))
	member := memberPrefix + hex.EncodeToString(sum[:])[:hashHexDigits]
	return Name{full: member, dir: member}
}

// IsMemberDir says whether a directory has the form of those of group snapshots. A snapshot that
// was taken alone may have such a name, too.
func IsMemberDir(dir string) bool {
	digits, ok := strings.CutPrefix(dir, memberPrefix)
	return ok && len(digits) == hashHexDigits && isHex(digits)
}

// MemberDirs are the directories of the group's snapshots.
func (g SnapshotGroup) MemberDirs() []string {
	sources := g.Sources()
	dirs := make([]string, len(sources))
	for i, source := range sources {
		dirs[i] = g.MemberName(source).Dir()
	}
	return dirs
}

// CheckMembers compares the IDs that a request has with those of the group's snapshots in a pool. A
// request without IDs names the group alone. Errors: ErrInvalid (CSI spec, "Snapshot list
// mismatch").
func (g SnapshotGroup) CheckMembers(pool PoolID, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	var members []string
	for _, dir := range g.MemberDirs() {
		members = append(members, SnapshotID{pool, dir}.String())
	}
	slices.Sort(members)
	if got := slices.Compact(slices.Sorted(slices.Values(ids))); !slices.Equal(got, members) {
		return fmt.Errorf("%w: group snapshot %q has the snapshots %q; requested: %q", ErrInvalid, g.Name,
			members, got)
	}
	return nil
}

// GroupSnapshot is what a pool knows of one group snapshot.
type GroupSnapshot struct {
	ID GroupSnapshotID
	// Snapshots are its members, all of them.
	Snapshots []Snapshot
}

// GroupSnapshotRequest is what CreateVolumeGroupSnapshot asks of a pool.
type GroupSnapshotRequest struct {
	Group SnapshotGroup
	Owner SnapshotOwner
}

// What external-snapshotter adds with --extra-create-metadata; kept in the records for people.
const (
	ParamGroupSnapshotName      = "csi.storage.k8s.io/volumegroupsnapshot/name"
	ParamGroupSnapshotNamespace = "csi.storage.k8s.io/volumegroupsnapshot/namespace"
	ParamGroupSnapshotContent   = "csi.storage.k8s.io/volumegroupsnapshotcontent/name"
)

// paramDeletionPolicy is a field of every VolumeGroupSnapshotClass, where Kubernetes obeys it. As a
// parameter it means nothing, but the tests of Kubernetes give it as one too (k8s.io/kubernetes,
// test/e2e/storage/testsuites/volume_group_snapshottable.go).
const paramDeletionPolicy = "deletionPolicy"

// ParseGroupSnapshotParameters reads the parameters of a VolumeGroupSnapshotClass, as
// ParseSnapshotParameters does those of a VolumeSnapshotClass. Errors: ErrInvalid, naming the key.
func ParseGroupSnapshotParameters(params map[string]string) (SnapshotOwner, error) {
	var o SnapshotOwner
	fields := map[string]*string{
		ParamGroupSnapshotName:      &o.GroupSnapshot,
		ParamGroupSnapshotNamespace: &o.Namespace,
		ParamGroupSnapshotContent:   &o.GroupContent,
	}
	for _, key := range slices.Sorted(maps.Keys(params)) {
		if key == paramDeletionPolicy {
			continue
		}
		field, known := fields[key]
		if !known {
			return SnapshotOwner{}, fmt.Errorf(
				"%w: unknown parameter %q; a VolumeGroupSnapshotClass of this driver has none", ErrInvalid, key)
		}
		*field = params[key]
	}
	return o, nil
}
