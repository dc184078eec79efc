package pool

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	recordFile    = "volume.json"
	dataEntry     = backend.Data
	recordVersion = 1
	// imageRecordVersion is that of a volume with an image: a driver that knows none would show
	// pods the image itself.
	imageRecordVersion = 2
	// maxRecordBytes bounds what is read from a record: many times the largest that CreateVolume
	// can cause.
	maxRecordBytes = 64 << 10
)

// record is volume.json: what a volume is, for the next start of the driver and for a person with a
// pager. The volume's ID is not in it: that follows from the pool and the name, so a volume moved
// to another pool belongs there.
type record struct {
	FormatVersion int            `json:"formatVersion"`
	Name          string         `json:"name"`
	Spec          volume.Spec    `json:"spec"`
	CapacityBytes int64          `json:"capacityBytes"`
	SharedBytes   int64          `json:"sharedBytes,omitempty"`
	Created       time.Time      `json:"created"`
	Owner         volume.Owner   `json:"owner,omitzero"`
	Source        volume.Source  `json:"source,omitzero"`
	QuotaID       volume.QuotaID `json:"quotaTag,omitempty"`
	// FilesystemBytes is the size of the filesystem that an image has. Once it is set, none is ever
	// made again, whatever becomes of it.
	FilesystemBytes int64 `json:"filesystemBytes,omitempty"`
}

func encodeRecord(v volume.Volume) ([]byte, error) {
	content, err := json.MarshalIndent(record{
		FormatVersion: recordVersionOf(v.Spec),
		Name:          v.Name.String(),
		Spec:          v.Spec,
		CapacityBytes: v.CapacityBytes,
		SharedBytes:   v.SharedBytes,
		Created:       v.Created,
		Owner:         v.Owner,
		Source:        v.Source,
		QuotaID:       v.QuotaID,

		FilesystemBytes: v.FilesystemBytes,
	}, "", "  ")
	return append(content, '\n'), err
}

func recordVersionOf(s volume.Spec) int {
	if s.IsImage() {
		return imageRecordVersion
	}
	return recordVersion
}

// decodeRecord reads the record found in a directory of a pool. Errors: ErrCorrupt.
func decodeRecord(pool volume.PoolID, dirName string, content []byte) (volume.Volume, error) {
	var r record
	if err := json.Unmarshal(content, &r); err != nil {
		return volume.Volume{}, fmt.Errorf("%w: %s: %w", volume.ErrCorrupt, recordFile, err)
	}
	if r.FormatVersion < recordVersion || r.FormatVersion > imageRecordVersion {
		return volume.Volume{}, fmt.Errorf("%w: %s has format version %d, this driver knows %d to %d",
			volume.ErrCorrupt, recordFile, r.FormatVersion, recordVersion, imageRecordVersion)
	}
	name, err := volume.ParseName(r.Name)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("%w: %s: %s", volume.ErrCorrupt, recordFile,
			err) //nolint:errorlint // it would blame the caller
	}
	if name.Dir() != dirName {
		return volume.Volume{}, fmt.Errorf(
			"%w: %s is of volume %q, which belongs in directory %s, not %s",
			volume.ErrCorrupt,
			recordFile,
			r.Name,
			name.Dir(),
			dirName,
		)
	}
	if err := r.Spec.Check(); err != nil {
		return volume.Volume{}, fmt.Errorf("%w: %s: %s", volume.ErrCorrupt, recordFile,
			err) //nolint:errorlint // as above
	}
	if r.CapacityBytes <= 0 || r.CapacityBytes > volume.MaxCapacityBytes {
		return volume.Volume{}, fmt.Errorf("%w: %s has capacityBytes %d", volume.ErrCorrupt, recordFile,
			r.CapacityBytes)
	}
	if r.FilesystemBytes < 0 || r.FilesystemBytes > r.CapacityBytes ||
		r.FilesystemBytes > 0 && r.Spec.FSType == "" {
		return volume.Volume{}, fmt.Errorf("%w: %s has filesystemBytes %d", volume.ErrCorrupt, recordFile,
			r.FilesystemBytes)
	}
	if r.SharedBytes < 0 || r.SharedBytes > volume.MaxCapacityBytes {
		return volume.Volume{}, fmt.Errorf("%w: %s has sharedBytes %d", volume.ErrCorrupt, recordFile,
			r.SharedBytes)
	}
	return volume.Volume{
		ID:            volume.NewID(pool, name),
		Name:          name,
		Spec:          r.Spec,
		CapacityBytes: r.CapacityBytes,
		SharedBytes:   r.SharedBytes,
		Created:       r.Created,
		Owner:         r.Owner,
		Source:        r.Source,
		QuotaID:       r.QuotaID,

		FilesystemBytes: r.FilesystemBytes,
	}, nil
}

// readRecord reads the record of an entry of volumes/, tmp/ or trash/; dirName is the volume's own
// directory.
func (p *Pool) readRecord(parent dir, entryName, dirName string) (volume.Volume, error) {
	content, err := readRecordFile(parent, entryName, recordFile)
	if err != nil {
		return volume.Volume{}, err
	}
	return decodeRecord(p.id, dirName, content)
}

// readRecordFile reads a bounded file of an entry. Errors: ErrCorrupt.
func readRecordFile(parent dir, entryName, name string) ([]byte, error) {
	f, err := parent.openBelow(entryName, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", volume.ErrCorrupt, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxRecordBytes))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", volume.ErrCorrupt, err)
	}
	return content, nil
}
