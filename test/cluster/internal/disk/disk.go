// Package disk makes the nodes' disks: sparse files with a filesystem.
package disk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Filesystem is what a disk is formatted with.
type Filesystem string

// The filesystems that the driver knows a backend for.
const (
	Ext4  Filesystem = "ext4"
	XFS   Filesystem = "xfs"
	Btrfs Filesystem = "btrfs"
)

// makers hold the options that make each filesystem as capable as its kernel
// allows: reflinks on XFS; on ext4 quota features are left out, because a kernel
// without them refuses to mount such a disk.
var makers = map[Filesystem][]string{
	Ext4:  {"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"},
	XFS:   {"mkfs.xfs", "-q", "-f", "-m", "reflink=1"},
	Btrfs: {"mkfs.btrfs", "-q", "-f"},
}

// ParseFilesystems reads a comma-separated list and spreads it over count nodes,
// beginning again when it is shorter.
func ParseFilesystems(list string, count int) ([]Filesystem, error) {
	names := strings.Split(list, ",")
	filesystems := make([]Filesystem, count)
	for i := range filesystems {
		filesystem := Filesystem(strings.TrimSpace(names[i%len(names)]))
		if _, known := makers[filesystem]; !known {
			return nil, fmt.Errorf("unknown filesystem %q in %q: use ext4, xfs or btrfs", filesystem, list)
		}
		filesystems[i] = filesystem
	}
	if len(names) > count {
		return nil, fmt.Errorf("%d filesystems in %q for %d nodes: name at most one a node", len(names),
			list, count)
	}
	return filesystems, nil
}

// Create makes the image file of size bytes; it takes no space until it is used.
func Create(ctx context.Context, path string, filesystem Filesystem, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := file.Truncate(size); err != nil {
		_ = file.Close()
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	maker := makers[filesystem]
	output, err := exec.CommandContext(
		ctx,
		maker[0],
		append(maker[1:len(maker):len(maker)], path)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("format the disk %s as %s: %w: %s", path, filesystem, err, output)
	}
	return nil
}
