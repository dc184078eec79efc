package trash

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// tombstone is the mode of an entry of volumes/ or snapshots/ that is deleted in place, because the
// disk is too full for a rename: trash/ may have to grow, and a full btrfs refuses every rename. A
// mode is changed at once or not at all, and takes no room; nobody sets this mode by accident.
const tombstone = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX

// markDeleted marks an entry of a directory with the tombstone. It is durable after a sync of the
// entry itself.
func markDeleted(in openat.Dir, name string) error {
	d, err := in.OpenDir(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := onFullDisk(d, func() error { return unix.Fchmod(d.FD(), tombstone) }); err != nil {
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	return nil
}

// onFullDisk makes a change that has to work on a full disk: btrfs takes the blocks for it from a
// reserve, and has what it took back when it has written them.
func onFullDisk(d openat.Dir, change func() error) error {
	err := change()
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	if err := unix.Syncfs(d.FD()); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return change()
}

// IsMarked says whether an entry of a directory has the tombstone: in volumes/ and snapshots/ it is
// deleted, and still there. An absent entry has none.
func IsMarked(in openat.Dir, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(in.FD(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return st.Mode == unix.S_IFDIR|tombstone, nil
}
