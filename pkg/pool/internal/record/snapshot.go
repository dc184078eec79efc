package record

import (
	"errors"
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
