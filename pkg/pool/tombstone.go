package pool

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// tombstone is the mode of an entry of volumes/ or snapshots/ that is deleted, and purged where it
// is, because the disk is too full for a rename: trash/ may have to grow, and on a full btrfs every
// rename is refused. A mode is changed at once or not at all, and takes no room; nobody sets this
// one by accident.
const tombstone = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX

// bury says of an entry that it is deleted. It is durable after a sync of the entry itself.
func bury(d openat.Dir, name string) error {
	grave, err := d.OpenDir(name)
	if err != nil {
		return err
	}
	defer grave.Close()
	if err := twice(grave, func() error { return unix.Fchmod(grave.FD(), tombstone) }); err != nil {
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	return nil
}

// twice makes a change that has to work on a full disk: btrfs takes the blocks for it from a
// reserve, and has what it took back when it has written them.
func twice(d openat.Dir, change func() error) error {
	err := change()
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	if err := unix.Syncfs(d.FD()); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return change()
}

// isBuried says whether an entry is deleted and still there.
func isBuried(d openat.Dir, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(d.FD(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return st.Mode == unix.S_IFDIR|tombstone, nil
}

// checkUnburied refuses a name whose last bearer is still being purged in its place. Errors:
// ErrBusy.
func checkUnburied(d openat.Dir, id catalog.Name) error {
	buried, err := isBuried(d, id.Dir())
	if buried {
		err = fmt.Errorf(
			"%w: %s was deleted while the disk was full, and is still being removed: ask again",
			volume.ErrBusy,
			id,
		)
	}
	return err
}

// syncTaken makes durable what throwAway did to an entry of volumes/ or snapshots/: what is still
// there is buried.
func (p *Pool) syncTaken(from openat.Dir, name string) error {
	files := []*os.File{from.File}
	if !p.ordered {
		files = append(files, p.trash.File)
	}
	grave, err := from.OpenDir(name)
	switch {
	case err == nil:
		defer grave.Close()
		files = append(files, grave.File)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	return twice(from, func() error { return p.commits.Sync(files...) })
}
