package layout

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ReplaceVolumeRecord replaces the record in a volume's directory by one rename(2). The new record
// is durable after a sync of the directory. After an error the old record is there.
func ReplaceVolumeRecord(d openat.Dir, content []byte) error {
	const tmpFile = record.VolumeFile + ".tmp"
	if err := d.WriteTmpFile(tmpFile, content, (*os.File).Sync); err != nil {
		return err
	}
	failpoint.Here("record.written")
	if err := d.Rename(tmpFile, record.VolumeFile); err != nil {
		return err
	}
	failpoint.Here("record.renamed")
	return nil
}

// recordBuffers are for the start, which reads all records of a pool.
//
//nolint:gochecknoglobals // has no state
var recordBuffers = sync.Pool{New: func() any { return new([record.MaxBytes]byte) }}

// ReadRecord reads the record at a path in a directory of the pool and returns what decode makes of
// its content. decode does not keep the content. Errors: ErrCorrupt, and those of decode.
func ReadRecord[V any](
	parent openat.Dir, path string, decode func(content []byte) (V, error),
) (v V, err error) {
	buffer, _ := recordBuffers.Get().(*[record.MaxBytes]byte)
	defer recordBuffers.Put(buffer)
	content, err := parent.ReadFile(path, buffer[:], openat.OnMount)
	if err != nil {
		return v, fmt.Errorf("%w: %w", volume.ErrCorrupt, err)
	}
	return decode(content)
}

// VolumeDirOf returns the name of the volume's directory in a path that leads from the pool's
// directory to the data of a volume. Paths below the data are the pods'.
func VolumeDirOf(path string) (dirName string, ok bool) {
	parts := strings.SplitN(path, "/", 3)
	if len(parts) < 3 || parts[0] != VolumesDir || !backend.IsDataPath(parts[2]) {
		return "", false
	}
	return parts[1], true
}
