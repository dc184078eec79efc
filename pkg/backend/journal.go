package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// HasOrderedJournal says whether all metadata of a directory's filesystem goes through one journal,
// whose entries reach the disk in the order in which they were made: XFS
// (Documentation/filesystems/xfs/xfs-delayed-logging-design.rst) and ext4 with a journal
// (Documentation/filesystems/ext4/journal.rst). There an fsync makes every earlier change of
// metadata durable as well, and a rename needs one of the two directories synced, because it is one
// entry. Elsewhere (btrfs logs each file by itself), and on doubt, it is false.
func HasOrderedJournal(d *os.File) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: d.Name(), Err: err}
	}
	switch st.Type {
	case unix.XFS_SUPER_MAGIC:
		return true, nil
	case unix.EXT4_SUPER_MAGIC: // that of ext2 and of ext4 without a journal, too
		return hasJournalThread(d)
	default:
		return false, nil
	}
}

// hasJournalThread asks sysfs; ext4 has no other answer for a program that must not need the block
// device.
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
