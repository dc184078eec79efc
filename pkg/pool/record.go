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

// readRecord reads the record of an entry of volumes/, tmp/ or trash/; dirName is the volume's own
// directory.
func (p *Pool) readRecord(parent openat.Dir, entryName, dirName string) (volume.Volume, error) {
	content, err := readRecordFile(parent, entryName, record.VolumeFile)
	if err != nil {
		return volume.Volume{}, err
	}
	return record.DecodeVolume(p.id, dirName, content)
}

// readSnapshot reads the record of an entry of snapshots/, tmp/ or trash/; dirName is the snapshot's
// own directory.
func (p *Pool) readSnapshot(parent openat.Dir, entryName, dirName string) (volume.Snapshot, error) {
	content, err := readRecordFile(parent, entryName, record.SnapshotFile)
	if err != nil {
		return volume.Snapshot{}, err
	}
	return record.DecodeSnapshot(p.id, dirName, content)
}

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
