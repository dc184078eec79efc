package record

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const snapshotVersion = 1

// snapshotRecord is snapshot.json.
type snapshotRecord struct {
	header

	Source          string               `json:"sourceVolume"`
	SourceCreated   time.Time            `json:"sourceCreated"`
	Spec            volume.Spec          `json:"spec"`
	RestoreBytes    int64                `json:"restoreBytes"`
	HeldBytes       int64                `json:"heldBytes"`
	Created         time.Time            `json:"created"`
	Owner           volume.SnapshotOwner `json:"owner,omitzero"`
	QuotaID         volume.QuotaID       `json:"quotaTag,omitempty"`
	SourceQuotaID   volume.QuotaID       `json:"sourceQuotaTag,omitempty"`
	FilesystemBytes int64                `json:"filesystemBytes,omitempty"`
	Formatting      bool                 `json:"formatting,omitempty"`
	Group           groupRecord          `json:"group,omitzero"`
}

// groupRecord says with which others a snapshot was taken. It names all volumes of the group, so
// that one record tells which snapshots belong to it.
type groupRecord struct {
	Name    string   `json:"name"`
	Volumes []string `json:"volumes"`
}

// IsZero is for encoding/json: a snapshot that was taken alone has no such field.
func (r groupRecord) IsZero() bool { return r.Name == "" }

func newGroupRecord(g volume.SnapshotGroup) groupRecord {
	r := groupRecord{Name: g.Name.String()}
	for _, source := range g.Sources() {
		r.Volumes = append(r.Volumes, source.String())
	}
	return r
}

// parse returns the group of a snapshot of that name and source. Errors: ErrCorrupt.
func (r groupRecord) parse(member volume.Name, source volume.ID) (volume.SnapshotGroup, error) {
	if r.IsZero() {
		return volume.SnapshotGroup{}, nil
	}
	name, err := volume.ParseName(r.Name)
	if err != nil {
		return volume.SnapshotGroup{}, corrupt(SnapshotFile, err)
	}
	var sources []volume.ID
	for _, s := range r.Volumes {
		id, err := volume.ParseID(s)
		if err != nil {
			return volume.SnapshotGroup{}, corrupt(SnapshotFile, err)
		}
		sources = append(sources, id)
	}
	g, err := volume.NewSnapshotGroup(name, sources)
	if err != nil {
		return volume.SnapshotGroup{}, corrupt(SnapshotFile, err)
	}
	if !slices.Contains(sources, source) || g.MemberName(source) != member {
		return volume.SnapshotGroup{}, fmt.Errorf("%w: %s says that snapshot %q of volume %s is in "+
			"group %q, which has no such snapshot", volume.ErrCorrupt, SnapshotFile, member, source, r.Name)
	}
	return g, nil
}

// EncodeSnapshot is the record of a snapshot.
func EncodeSnapshot(s volume.Snapshot) ([]byte, error) {
	return encode(snapshotRecord{
		header:          header{FormatVersion: snapshotVersion, Name: s.Name.String()},
		Source:          s.Source.String(),
		SourceCreated:   s.SourceCreated,
		Spec:            s.Spec,
		RestoreBytes:    s.RestoreBytes,
		HeldBytes:       s.HeldBytes,
		Created:         s.Created,
		Owner:           s.Owner,
		QuotaID:         s.QuotaID,
		SourceQuotaID:   s.SourceQuotaID,
		FilesystemBytes: s.FilesystemBytes,
		Formatting:      s.Formatting,
		Group:           newGroupRecord(s.Group),
	})
}

// DecodeSnapshot reads the record that was found in a directory of a pool. Errors: ErrCorrupt.
func DecodeSnapshot(pool volume.PoolID, dirName string, content []byte) (volume.Snapshot, error) {
	var r snapshotRecord
	if err := decode(SnapshotFile, content, &r); err != nil {
		return volume.Snapshot{}, err
	}
	name, err := r.parseName(
		SnapshotFile,
		"snapshot",
		dirName,
		versions{snapshotVersion, snapshotVersion},
	)
	if err != nil {
		return volume.Snapshot{}, err
	}
	source, err := volume.ParseID(r.Source)
	if err != nil {
		return volume.Snapshot{}, corrupt(SnapshotFile, err)
	}
	if err := r.check(); err != nil {
		return volume.Snapshot{}, err
	}
	group, err := r.Group.parse(name, source)
	if err != nil {
		return volume.Snapshot{}, err
	}
	return volume.Snapshot{
		ID:              volume.NewSnapshotID(pool, name),
		Name:            name,
		Source:          source,
		SourceCreated:   r.SourceCreated,
		Spec:            r.Spec,
		RestoreBytes:    r.RestoreBytes,
		HeldBytes:       r.HeldBytes,
		Created:         r.Created,
		Owner:           r.Owner,
		QuotaID:         r.QuotaID,
		SourceQuotaID:   r.SourceQuotaID,
		FilesystemBytes: r.FilesystemBytes,
		Formatting:      r.Formatting && r.FilesystemBytes == 0,
		Group:           group,
	}, nil
}

func (r snapshotRecord) check() error {
	if err := r.Spec.Check(); err != nil {
		return corrupt(SnapshotFile, err)
	}
	return errors.Join(
		checkBytes(SnapshotFile, "restoreBytes", r.RestoreBytes, 1),
		checkBytes(SnapshotFile, "heldBytes", r.HeldBytes, 0),
		checkFilesystem(SnapshotFile, r.Spec, r.FilesystemBytes, r.RestoreBytes),
	)
}
