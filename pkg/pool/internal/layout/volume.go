package layout

import (
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
)

// ReplaceVolumeRecord replaces the record in a volume's directory by one rename(2). The new record
// is durable after a sync of the directory. After an error the old record is there.
func ReplaceVolumeRecord(volume openat.Dir, content []byte) error {
	const tmpFile = record.VolumeFile + ".tmp"
	if err := volume.WriteTmpFile(tmpFile, content, (*os.File).Sync); err != nil {
		return err
	}
	failpoint.Here("record.written")
	if err := volume.Rename(tmpFile, record.VolumeFile); err != nil {
		return err
	}
	failpoint.Here("record.renamed")
	return nil
}
