package backend

import (
	"context"
	"errors"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Cloner is a Backend whose filesystem copies a whole volume at one moment and shares its blocks.
// The source may be in another pool. A method that fails leaves nothing. Errors of the copying
// methods: errors.ErrUnsupported if the filesystem cannot copy this source; then the caller copies
// the files.
type Cloner interface {
	// Snapshot makes the data of a snapshot in dir: a read-only copy of the source as it is now, with
	// a quota ID of its own that has no limit. It is durable after an fsync of dir.
	Snapshot(source Source, dir openat.Dir) (Clone, error)
	// SnapshotTogether makes in each dir what Snapshot makes, of one source each, all as they are at
	// one moment: what a process has made durable in one source before it writes to another one is
	// in the snapshots if that write is. After an error it returns clones that have a quota ID only:
	// the caller releases those. Errors: also volume.ErrBusy if the filesystem did not manage that
	// within some seconds, because of too many writers; the caller tries again.
	SnapshotTogether(ctx context.Context, sources []Source, dirs []openat.Dir) ([]Clone, error)
	// Clone makes the data of a volume in dir: a copy of the source as it is now, with a quota ID of
	// its own that is limited to that size. It is durable after an fsync of the data and of dir.
	Clone(source Source, dir openat.Dir, bytes int64) (Clone, error)
	// ChargesWriter reports whether a shared block counts for the volume that wrote it, and for no
	// other. Then blocks of a snapshot count for its volume, and blocks that a volume has from
	// its source do not count for the volume.
	ChargesWriter() bool
}

// ClonerOf returns the backend as a Cloner, or NoCloner if it is none.
func ClonerOf(b Backend) Cloner {
	if c, ok := b.(Cloner); ok {
		return c
	}
	return NoCloner{}
}

// NoCloner is the Cloner of a filesystem that cannot copy a volume at one moment. It refuses every
// copy with errors.ErrUnsupported.
type NoCloner struct{}

// Snapshot implements Cloner.
func (NoCloner) Snapshot(Source, openat.Dir) (Clone, error) {
	return Clone{}, errors.ErrUnsupported
}

// SnapshotTogether implements Cloner.
func (NoCloner) SnapshotTogether(context.Context, []Source, []openat.Dir) ([]Clone, error) {
	return nil, errors.ErrUnsupported
}

// Clone implements Cloner.
func (NoCloner) Clone(Source, openat.Dir, int64) (Clone, error) {
	return Clone{}, errors.ErrUnsupported
}

// ChargesWriter implements Cloner.
func (NoCloner) ChargesWriter() bool { return false }

// Source is a volume or a snapshot that is copied: its open directory and its quota ID.
type Source struct {
	Dir     openat.Dir
	QuotaID volume.QuotaID
}

// Clone is the data that was made.
type Clone struct {
	// Data is open; the caller closes it.
	Data    *os.File
	QuotaID volume.QuotaID
	// WrittenBytes is what counts for the source's quota ID at that moment: the clone has no more than
	// that. It is 0 if the filesystem does not count.
	WrittenBytes int64
}
