package trash

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// tombstone is the mode of a directory that nobody may take back. In volumes/ and snapshots/ it
// marks an entry that is deleted in place, because the disk is too full for a rename: trash/ may
// have to grow, and a full btrfs refuses every rename. In trash/ it marks an entry whose purge has
// begun: what is left of it may look whole. A mode is changed at once or not at all, and takes no
// room; nobody sets this mode by accident.
const tombstone = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX

// setTombstone gives an open entry the tombstone, which is durable after a sync of the entry.
func setTombstone(d openat.Dir) error {
	if err := onFullDisk(d, func() error { return unix.Fchmod(d.FD(), tombstone) }); err != nil {
		return &os.PathError{Op: "chmod", Path: d.Name(), Err: err}
	}
	return nil
}

// deleteInPlace deletes an entry of volumes/ or snapshots/ in place.
func deleteInPlace(in openat.Dir, name string) error {
	d, err := in.OpenUnmounted(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return setTombstone(d)
}

// markBegun says on disk that the purge of an entry begins, before the first file goes. What a
// crash then leaves is purged by the next start, whatever the retention is by then. (Every start
// purges an entry of tmp/, and one that is deleted in place has the tombstone.)
//
// With a retention somebody may look into trash/ for a volume to take back, so the tombstone is
// durable before the first file goes. Without a retention a purge must cost no fsync: the tombstone
// is one system call, and its failure is no reason to keep the data. The tombstone outlives the
// process. A power cut can lose it only where the filesystem keeps a removal and not the chmod
// before it, which ext4 with a journal, XFS and btrfs do not; and what is then left is kept only if
// a retention was switched on meanwhile.
func (t *Trash) markBegun(e *Entry, d openat.Dir) error {
	if e.begun || e.In != t.Dir {
		return nil
	}
	err := setTombstone(d)
	if t.retention(e) > 0 {
		if err == nil {
			err = onFullDisk(d, func() error { return t.Sync(d.File) })
		}
		if err != nil {
			return err
		}
	}
	e.begun = true
	failpoint.Here("purge.marked")
	return nil
}

// fullDiskTries bounds how often a change is tried on a full disk.
const fullDiskTries = 10

// onFullDisk makes a change that has to succeed on a full disk. btrfs uses its reserve for the
// change and refills the reserve at a commit. Purges and other calls may use the refill first, so
// onFullDisk commits and tries again.
func onFullDisk(d openat.Dir, change func() error) (err error) {
	for range fullDiskTries {
		if err = change(); !errors.Is(err, unix.ENOSPC) {
			return err
		}
		if err := unix.Syncfs(d.FD()); err != nil && !errors.Is(err, unix.ENOSPC) {
			return os.NewSyscallError("syncfs", err)
		}
	}
	return err
}

// HasTombstone says whether an entry of a directory has the tombstone: in volumes/ and snapshots/
// the entry is deleted, and still there. An absent entry has none.
func HasTombstone(in openat.Dir, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(in.FD(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return isTombstone(st), nil
}

// CheckNotDeleted refuses a name of volumes/ or snapshots/ whose entry was deleted in place and is
// not purged yet. Errors: ErrBusy.
func CheckNotDeleted(in openat.Dir, name string) error {
	deleted, err := HasTombstone(in, name)
	if deleted {
		err = fmt.Errorf(
			"%w: %s/%s was deleted while the disk was full, and is still being removed: ask again",
			volume.ErrBusy, in.Name(), name)
	}
	return err
}

func isTombstone(st unix.Stat_t) bool { return st.Mode == unix.S_IFDIR|tombstone }
