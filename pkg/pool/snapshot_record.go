package pool

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const snapshotRecordFile = "snapshot.json"

// snapshotRecord is snapshot.json: what a snapshot is, for the next start of the driver and for a
// person with a pager.
type snapshotRecord struct {
	FormatVersion int                  `json:"formatVersion"`
	Name          string               `json:"name"`
	Source        string               `json:"sourceVolume"`
	SourceCreated time.Time            `json:"sourceCreated"`
	Spec          volume.Spec          `json:"spec"`
	RestoreBytes  int64                `json:"restoreBytes"`
	HeldBytes     int64                `json:"heldBytes"`
	Created       time.Time            `json:"created"`
	Owner         volume.SnapshotOwner `json:"owner,omitzero"`
	QuotaID       volume.QuotaID       `json:"quotaTag,omitempty"`
	SourceQuotaID volume.QuotaID       `json:"sourceQuotaTag,omitempty"`

	FilesystemBytes int64 `json:"filesystemBytes,omitempty"`
}

func encodeSnapshot(s volume.Snapshot) ([]byte, error) {
	content, err := json.MarshalIndent(snapshotRecord{
		FormatVersion: recordVersion,
		Name:          s.Name.String(),
		Source:        s.Source.String(),
		SourceCreated: s.SourceCreated,
		Spec:          s.Spec,
		RestoreBytes:  s.RestoreBytes,
		HeldBytes:     s.HeldBytes,
		Created:       s.Created,
		Owner:         s.Owner,
		QuotaID:       s.QuotaID,
		SourceQuotaID: s.SourceQuotaID,

		FilesystemBytes: s.FilesystemBytes,
	}, "", "  ")
	return append(content, '\n'), err
}

// decodeSnapshot reads the record found in a directory of a pool. Errors: ErrCorrupt.
func decodeSnapshot(pool volume.PoolID, dirName string, content []byte) (volume.Snapshot, error) {
	var r snapshotRecord
	if err := json.Unmarshal(content, &r); err != nil {
		return volume.Snapshot{}, fmt.Errorf("%w: %s: %w", volume.ErrCorrupt, snapshotRecordFile, err)
	}
	if r.FormatVersion != recordVersion {
		return volume.Snapshot{}, fmt.Errorf("%w: %s has format version %d, this driver knows %d",
			volume.ErrCorrupt, snapshotRecordFile, r.FormatVersion, recordVersion)
	}
	name, err := volume.ParseName(r.Name)
	if err != nil {
		//nolint:errorlint // wrapped, it would blame the caller
		return volume.Snapshot{}, fmt.Errorf("%w: %s: %s", volume.ErrCorrupt, snapshotRecordFile, err)
	}
	if name.Dir() != dirName {
		return volume.Snapshot{}, fmt.Errorf(
			"%w: %s is of snapshot %q, which belongs in directory %s, not %s",
			volume.ErrCorrupt,
			snapshotRecordFile,
			r.Name,
			name.Dir(),
			dirName,
		)
	}
	source, err := volume.ParseID(r.Source)
	if err != nil {
		return volume.Snapshot{}, fmt.Errorf("%w: %s: %s", volume.ErrCorrupt, snapshotRecordFile,
			err) //nolint:errorlint // as above
	}
	if err := r.check(); err != nil {
		return volume.Snapshot{}, fmt.Errorf("%w: %s: %w", volume.ErrCorrupt, snapshotRecordFile, err)
	}
	return volume.Snapshot{
		ID:            volume.NewSnapshotID(pool, name),
		Name:          name,
		Source:        source,
		SourceCreated: r.SourceCreated,
		Spec:          r.Spec,
		RestoreBytes:  r.RestoreBytes,
		HeldBytes:     r.HeldBytes,
		Created:       r.Created,
		Owner:         r.Owner,
		QuotaID:       r.QuotaID,
		SourceQuotaID: r.SourceQuotaID,

		FilesystemBytes: r.FilesystemBytes,
	}, nil
}

func (r snapshotRecord) check() error {
	if err := r.Spec.Check(); err != nil {
		return fmt.Errorf("%s", err) //nolint:errorlint // wrapped, it would blame the caller
	}
	switch {
	case r.FilesystemBytes < 0 || r.FilesystemBytes > r.RestoreBytes || r.FilesystemBytes > 0 && r.Spec.FSType == "":
		return fmt.Errorf("filesystemBytes is %d", r.FilesystemBytes)
	case r.RestoreBytes <= 0 || r.RestoreBytes > volume.MaxCapacityBytes:
		return fmt.Errorf("restoreBytes is %d", r.RestoreBytes)
	case r.HeldBytes < 0 || r.HeldBytes > volume.MaxCapacityBytes:
		return fmt.Errorf("heldBytes is %d", r.HeldBytes)
	default:
		return nil
	}
}

// readSnapshot reads the record of an entry of snapshots/ or trash/; dirName is the snapshot's own
// directory.
func (p *Pool) readSnapshot(parent dir, entryName, dirName string) (volume.Snapshot, error) {
	content, err := readRecordFile(parent, entryName, snapshotRecordFile)
	if err != nil {
		return volume.Snapshot{}, err
	}
	return decodeSnapshot(p.id, dirName, content)
}
