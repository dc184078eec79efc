package pool

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const dataEntry = backend.Data

// readRecordFile reads a bounded file of an entry. Errors: ErrCorrupt.
func readRecordFile(parent openat.Dir, entryName, name string) ([]byte, error) {
	f, err := parent.Resolve(entryName+"/"+name, unix.O_RDONLY|unix.O_NONBLOCK, openat.OnMount)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", volume.ErrCorrupt, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, record.MaxBytes))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", volume.ErrCorrupt, err)
	}
	return content, nil
}
