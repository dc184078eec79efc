package pool

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// recordBuffers are for the start, which reads all records of a pool.
//
//nolint:gochecknoglobals // has no state
var recordBuffers = sync.Pool{New: func() any { return new([record.MaxBytes]byte) }}

// read reads the record of an entry of the kind's directory, of tmp/ or of trash/; dirName is the
// directory where the record belongs. Errors: ErrCorrupt.
func (k *kind[V]) read(parent openat.Dir, entryName, dirName string) (v V, err error) {
	buffer, _ := recordBuffers.Get().(*[record.MaxBytes]byte)
	defer recordBuffers.Put(buffer)
	content, err := parent.ReadFile(entryName+"/"+k.recordFile, buffer[:], openat.OnMount)
	if err != nil {
		return v, fmt.Errorf("%w: %w", volume.ErrCorrupt, err)
	}
	return k.decode(k.pool.id, dirName, content)
}
