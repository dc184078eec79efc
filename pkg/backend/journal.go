package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// HasOrderedJournal reports whether all metadata of a directory's filesystem goes through one
// journal, which reaches the disk in the order of the changes: XFS
// (Documentation/filesystems/xfs/xfs-delayed-logging-design.rst), and ext4 with a journal
// (Documentation/filesystems/ext4/journal.rst). Then an fsync makes all earlier changes of metadata
// durable as well; and after a rename, which is one entry of the journal, it is enough to sync one
// of the two directories. It is false for other filesystems (btrfs logs each file by itself), and
// in doubt.
func HasOrderedJournal(d *os.File) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: d.Name(), Err: err}
	}
	switch st.Type {
	case unix.XFS_SUPER_MAGIC:
		return true, nil
	case unix.EXT4_SUPER_MAGIC: // also ext2, and ext4 without a journal
		return hasJournalThread(d)
	default:
		return false, nil
	}
}

// hasJournalThread asks sysfs: without the block device there is no other way to know it of ext4.
func hasJournalThread(d *os.File) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: d.Name(), Err: err}
	}
	device, err := os.Readlink(
		fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)),
	)
	if err != nil {
		return false, ignoreAbsent(err)
	}
	task, err := os.ReadFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "journal_task"))
	if err != nil {
		return false, ignoreAbsent(err)
	}
	return strings.TrimSpace(string(task)) != "<none>", nil // fs/ext4/sysfs.c, ext4_attr_show
}

func ignoreAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
