// Package record reads and writes pool.json, volume.json and snapshot.json: what a pool, a volume
// and a snapshot are, for the next start of the driver and for a person with a pager. It turns
// bytes into values and back; it opens no file.
//
// The ID of a volume or of a snapshot is not in its record. The ID follows from the pool and the
// name, so a volume that is moved to another pool belongs there.
package record

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The names of the records in their directories.
const (
	PoolFile     = "pool.json"
	VolumeFile   = "volume.json"
	SnapshotFile = "snapshot.json"
)

// MaxBytes bounds what is read from a record: many times the largest record that a call can cause.
const MaxBytes = 64 << 10

// header is what the records of volumes and snapshots begin with.
type header struct {
	FormatVersion int    `json:"formatVersion"`
	Name          string `json:"name"`
}

// versions are the format versions that a record may have.
type versions struct{ first, last int }

func (v versions) String() string {
	if v.first == v.last {
		return strconv.Itoa(v.first)
	}
	return fmt.Sprintf("%d to %d", v.first, v.last)
}

// parseName checks the header of a record that was found in a directory, and returns the name that
// belongs there. Errors: ErrCorrupt.
func (h header) parseName(file, kind, dirName string, known versions) (volume.Name, error) {
	if h.FormatVersion < known.first || h.FormatVersion > known.last {
		return volume.Name{}, fmt.Errorf("%w: %s has format version %d, this driver knows %s",
			volume.ErrCorrupt, file, h.FormatVersion, known)
	}
	name, err := volume.ParseName(h.Name)
	if err != nil {
		return volume.Name{}, corrupt(file, err)
	}
	if name.Dir() != dirName {
		return volume.Name{}, fmt.Errorf("%w: %s is of %s %q, which belongs in directory %s, not %s",
			volume.ErrCorrupt, file, kind, h.Name, name.Dir(), dirName)
	}
	return name, nil
}

// checkFilesystem checks the size of the filesystem in an image of that size. Errors: ErrCorrupt.
func checkFilesystem(file string, spec volume.Spec, filesystemBytes, imageBytes int64) error {
	if filesystemBytes < 0 || filesystemBytes > imageBytes ||
		filesystemBytes > 0 && spec.FSType == "" {
		return fmt.Errorf("%w: %s has filesystemBytes %d", volume.ErrCorrupt, file, filesystemBytes)
	}
	return nil
}

// checkBytes checks a number of bytes of a record. Errors: ErrCorrupt.
func checkBytes(file, field string, bytes, least int64) error {
	if bytes < least || bytes > volume.MaxCapacityBytes {
		return fmt.Errorf("%w: %s has %s %d", volume.ErrCorrupt, file, field, bytes)
	}
	return nil
}

// corrupt hides the sentinel of an error, which would blame the caller for what is on the disk.
func corrupt(file string, err error) error {
	return fmt.Errorf("%w: %s: %s", volume.ErrCorrupt, file, err) //nolint:errorlint // see above
}

// encode writes a record as a person reads it.
func encode(record any) ([]byte, error) {
	content, err := json.MarshalIndent(record, "", "  ")
	return append(content, '\n'), err
}

// decode reads a record. Errors: ErrCorrupt.
func decode(file string, content []byte, record any) error {
	if err := json.Unmarshal(content, record); err != nil {
		return fmt.Errorf("%w: %s: %w", volume.ErrCorrupt, file, err)
	}
	return nil
}
