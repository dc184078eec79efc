package btrfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

var _ backend.Cloner = (*Btrfs)(nil)

// Snapshot implements backend.Cloner. A subvolume that a pod has made in its volume is not part of
// it: an empty directory stands there.
func (b *Btrfs) Snapshot(source backend.Source, dir *os.File) (backend.Clone, error) {
	return b.snapshot(source, dir, volume.MaxCapacityBytes, readOnly)
}

// Clone implements backend.Cloner. It lacks what a snapshot lacks.
func (b *Btrfs) Clone(source backend.Source, dir *os.File, bytes int64) (backend.Clone, error) {
	return b.snapshot(source, dir, bytes, 0)
}

// ChargesWriter implements backend.Cloner.
func (b *Btrfs) ChargesWriter() bool { return b.quotas == simple }

// snapshot makes a snapshot of the subvolume that holds the source's data, under the same name, in
// a new quota group.
func (b *Btrfs) snapshot(
	source backend.Source, dir *os.File, bytes int64, flags uint64,
) (backend.Clone, error) {
	if b.quotas == full {
		// A snapshot that is born into a group of its own makes the filesystem's numbers wrong
		// until a rescan of all of it (btrfs_qgroup_inherit in fs/btrfs/qgroup.c); copies of files
		// that share their blocks are counted right.
		return backend.Clone{}, fmt.Errorf("%w: the filesystem has full quotas", errors.ErrUnsupported)
	}
	of, err := openSubvolume(source.Dir)
	// its data is plain files, copied here by somebody, or of another filesystem
	if errors.Is(err, fs.ErrNotExist) {
		return backend.Clone{}, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	if err != nil {
		return backend.Clone{}, err
	}
	defer of.Close()
	quotaID, err := b.claim(bytes)
	if err != nil {
		return backend.Clone{}, err
	}
	if err := createSnapshot(dir, of.Name(), of, group(quotaID), flags); err != nil {
		if errors.Is(err, unix.EXDEV) { // another filesystem
			err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
		return backend.Clone{}, errors.Join(err, b.Release(quotaID))
	}
	c, err := b.describe(source.QuotaID, dir)
	c.QuotaID = quotaID
	if err != nil {
		return backend.Clone{}, errors.Join(err, b.fs.destroy(dir, of.Name()), b.Release(quotaID))
	}
	return c, nil
}

// describe reads the numbers of the source after its snapshot has been made, which has committed
// them.
func (b *Btrfs) describe(source volume.QuotaID, dir *os.File) (c backend.Clone, err error) {
	if b.enforces && b.quotaIDs.Contains(source) {
		used, err := b.fs.used(source)
		if err != nil {
			return c, err
		}
		c.WrittenBytes = clamp(used)
	}
	c.Data, err = backend.OpenData(dir, unix.O_RDONLY|unix.O_NONBLOCK)
	return c, err
}
