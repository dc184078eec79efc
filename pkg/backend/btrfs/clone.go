package btrfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

var _ backend.Cloner = (*Btrfs)(nil)

// Snapshot implements backend.Cloner. Subvolumes that a pod has made in its volume are not in the
// snapshot: each is an empty directory there.
func (b *Btrfs) Snapshot(source backend.Source, dir openat.Dir) (backend.Clone, error) {
	return b.snapshot(source, dir, volume.MaxCapacityBytes, readOnly)
}

// Clone implements backend.Cloner. As in Snapshot, subvolumes in the volume are empty directories.
func (b *Btrfs) Clone(source backend.Source, dir openat.Dir, bytes int64) (backend.Clone, error) {
	return b.snapshot(source, dir, bytes, 0)
}

// ChargesWriter implements backend.Cloner.
func (b *Btrfs) ChargesWriter() bool { return b.quotas == simple }

// snapshot makes a snapshot of the subvolume that holds the source's data, under the same name, in
// a new quota group.
func (b *Btrfs) snapshot(
	source backend.Source, dir openat.Dir, bytes int64, flags uint64,
) (backend.Clone, error) {
	of, err := b.openSource(source)
	if err != nil {
		return backend.Clone{}, err
	}
	defer of.Close()
	quotaID, err := b.newGroup(bytes)
	if err != nil {
		return backend.Clone{}, err
	}
	if err := createSnapshot(dir.File, of.Name(), of, group(quotaID), flags); err != nil {
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

// openSource opens the subvolume of which a snapshot is made. Errors: errors.ErrUnsupported.
func (b *Btrfs) openSource(source backend.Source) (*os.File, error) {
	if b.quotas == full {
		// A snapshot in a group of its own makes the filesystem's numbers wrong until a rescan of all
		// of it (btrfs_qgroup_inherit in fs/btrfs/qgroup.c). Copies of files that share blocks are
		// counted correctly.
		return nil, fmt.Errorf("%w: the filesystem has full quotas", errors.ErrUnsupported)
	}
	of, err := openSubvolume(source.Dir)
	// Somebody has copied the data here as plain files, or the data is on another filesystem.
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return of, err
}

// describe opens the new data, and reads the numbers of the source, which the snapshot has
// committed.
func (b *Btrfs) describe(source volume.QuotaID, dir openat.Dir) (c backend.Clone, err error) {
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
