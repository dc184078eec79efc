package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
)

// The filesystems that can be asked for: onHost is a directory of whatever is there.
const (
	onHost = "host"
	// diskSize is sparse, and has inodes for 100,000 volumes and 100,000 files.
	diskSize = 16 << 30
	// ext4Inodes is how many it has there if nobody asks for more (mke2fs.conf(5), inode_ratio).
	ext4Inodes = diskSize / (16 << 10)
)

// mkfs makes each filesystem at once what it would otherwise become in the background, while we
// measure.
var mkfs = map[string][]string{
	"ext4":  {"mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"},
	"xfs":   {"mkfs.xfs", "-q", "-f", "-K"},
	"btrfs": {"mkfs.btrfs", "-q", "-f", "-K"},
}

// disk is where pools are.
type disk struct {
	dir   string
	image string // empty on the host's own filesystem
	about string
}

// inodesFor makes room for many inodes on ext4, which makes them with the filesystem; the others
// need nothing.
func inodesFor(fs string, inodes int) []string {
	if fs == "ext4" && inodes > ext4Inodes {
		return []string{"-N", strconv.Itoa(inodes)}
	}
	return nil
}

// newDisk makes the filesystem at dir, in an image beside it on a loop device. It goes with its
// mount.
func newDisk(ctx context.Context, fs, dir string, inodes int) (disk, error) {
	d := disk{dir: dir}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return d, err
	}
	if fs == onHost {
		d.about = "the host's " + filesystemOf(d.dir) + ", at " + d.dir
		return d, nil
	}
	d.image = dir + ".image"
	d.about = fmt.Sprintf("%s on a loop device (direct I/O) over a sparse file on the host's %s", fs,
		filesystemOf(dir))
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		return d, err
	}
	if err := os.Truncate(d.image, diskSize); err != nil {
		return d, err
	}
	if _, err := output(
		ctx,
		slices.Concat(mkfs[fs], inodesFor(fs, inodes), []string{d.image})...); err != nil {
		return d, err
	}
	return d, d.mount(ctx)
}

// mount attaches the image with direct I/O: otherwise each fsync would also write what other calls
// have left in the host's cache, which a disk does not have.
func (d disk) mount(ctx context.Context) error {
	device, err := output(ctx, "losetup", "--find", "--show", "--direct-io=on", d.image)
	if err != nil {
		return err
	}
	_, err = output(ctx, "mount", device, d.dir)
	// From here on the mount holds the device, and frees it.
	_, detachErr := output(ctx, "losetup", "--detach", device)
	return errors.Join(err, detachErr)
}

// output runs a command and returns the line that it says.
func output(ctx context.Context, command ...string) (string, error) {
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%v: %w: %s", command, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// cool empties the caches of the filesystem, as a reboot does, and no others: the machine is not
// ours. It says whether it could.
func (d disk) cool(ctx context.Context) (bool, error) {
	if d.image == "" {
		return false, nil
	}
	if err := unix.Unmount(d.dir, 0); err != nil {
		return false, &os.PathError{Op: "unmount", Path: d.dir, Err: err}
	}
	f, err := os.Open(d.image)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return false, err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return false, err
	}
	return true, d.mount(ctx)
}

// settle writes everything out, so that nobody waits for what another measurement has left.
func (d disk) settle() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// filesystemOf is what a path is on: the mount with the longest name above it.
func filesystemOf(path string) string {
	table, err := mount.Table()
	if err != nil {
		return "unknown filesystem"
	}
	var best mount.Mount
	for _, m := range table {
		if strings.HasPrefix(path+"/", strings.TrimSuffix(m.Point, "/")+"/") &&
			len(m.Point) >= len(best.Point) {
			best = m
		}
	}
	return best.FSType
}
