package backend

import (
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Cloner is a Backend whose filesystem copies a whole volume at one moment, sharing its blocks. A
// source may be of the same pool or of another one. On failure nothing is left. Errors of the
// copying methods: errors.ErrUnsupported when the filesystem cannot do it for this source, which is
// then to be copied file by file.
type Cloner interface {
	// Snapshot makes the data of a snapshot in dir: as the source is now, never to change, under a
	// quota ID of its own that has no limit. It is durable after the fsync of dir.
	Snapshot(source Source, dir *os.File) (Clone, error)
	// Clone makes the data of a volume in dir: as the source is now, held to that size under a
	// quota ID of its own. It is durable after the fsync of the data and of dir.
	Clone(source Source, dir *os.File, bytes int64) (Clone, error)
	// ChargesWriter says that a shared block counts for the volume that wrote it, not for the one
	// that has it: what a snapshot keeps counts for the volume it was taken of, and what a volume
	// has from its source does not count for it.
	ChargesWriter() bool
}

// Source is what is copied: the open directory of a volume or of a snapshot, and its quota ID.
type Source struct {
	Dir     *os.File
	QuotaID volume.QuotaID
}

// Clone is what has been made.
type Clone struct {
	// Data is open; the caller closes it.
	Data    *os.File
	QuotaID volume.QuotaID
	// WrittenBytes is what counts for the source's quota ID, of which the clone can have no more; 0
	// where the filesystem does not count.
	WrittenBytes int64
}
