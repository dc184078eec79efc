package mount

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mount is one line of the mount table (proc_pid_mountinfo(5)).
type Mount struct {
	ID int
	// Device is the filesystem's "major:minor". For btrfs it is not what stat(2) says of a file in
	// it, so compare it only with other Mounts.
	Device string
	// Root is the path within the filesystem that is shown at Point.
	Root   string
	Point  string
	FSType string
	// Source is what the filesystem says that it is on; the kernel does not interpret it.
	Source string
	// FSOptions are the filesystem's own options, separated by commas, the same for all mounts of
	// it.
	FSOptions string
	// Shared: what is mounted below Point shows in other mount namespaces too, such as kubelet's
	// (mount_namespaces(7)).
	Shared bool
}

// Table reads the mount table of this process's mount namespace. Its cost grows with the number of
// mounts: it is for the start of the driver, not for a call.
func Table() ([]Mount, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	mounts := make([]Mount, 0, len(infos))
	for _, info := range infos {
		mounts = append(mounts, Mount{
			ID:     info.ID,
			Device: fmt.Sprintf("%d:%d", info.Major, info.Minor),
			Root:   info.Root,
			Point:  info.Mountpoint,
			FSType: info.FSType,
			Source: info.Source,
			Shared: strings.HasPrefix(info.Optional, "shared:"),

			FSOptions: info.VFSOptions,
		})
	}
	return mounts, nil
}

// Location is where a directory stands in its filesystem, whatever it is mounted as.
type Location struct {
	device string
	root   string
}

// Locate finds the location of an open directory.
func Locate(d *os.File) (Location, error) {
	mounts, err := Table()
	if err != nil {
		return Location{}, err
	}
	return LocateIn(mounts, d)
}

// LocateIn is Locate for an open directory or file, with a mount table that was read after it was
// opened.
func LocateIn(mounts []Mount, d *os.File) (Location, error) {
	m, err := Of(mounts, d)
	if err != nil {
		return Location{}, err
	}
	name, err := os.Readlink(fdPath(d))
	if err != nil {
		return Location{}, err
	}
	rel, ok := below(m.Point, name)
	if !ok {
		return Location{}, fmt.Errorf(
			"%s is not below its mount point %s: was it moved while the driver started?",
			name,
			m.Point,
		)
	}
	return Location{device: m.Device, root: path.Join(m.Root, rel)}, nil
}

// Shown has the location of an open directory or file, and those of what is mounted below it: all
// that a recursive bind mount of it shows.
func Shown(mounts []Mount, f *os.File) ([]Location, error) {
	own, err := LocateIn(mounts, f)
	if err != nil {
		return nil, err
	}
	name, err := os.Readlink(fdPath(f))
	if err != nil {
		return nil, err
	}
	shown := []Location{own}
	for _, m := range mounts {
		if rest, isBelow := below(name, m.Point); isBelow && rest != "" {
			shown = append(shown, Location{device: m.Device, root: m.Root})
		}
	}
	return shown, nil
}

// Overlaps says whether the locations are the same, or one of them contains the other.
func (l Location) Overlaps(other Location) bool {
	if l.device != other.device {
		return false
	}
	_, contains := below(l.root, other.root)
	_, isContained := below(other.root, l.root)
	return contains || isContained
}

// Below says whether a mount shows something below the location, and what: its path from there.
func (l Location) Below(m Mount) (string, bool) {
	if m.Device != l.device {
		return "", false
	}
	return below(l.root, m.Root)
}

// below is the part of an absolute clean path under a base; false if it is not under it.
func below(base, name string) (string, bool) {
	if name == base {
		return "", true
	}
	return strings.CutPrefix(name, strings.TrimSuffix(base, "/")+"/")
}

// btrfsRootInode is the inode number of every btrfs subvolume's root (BTRFS_FIRST_FREE_OBJECTID).
const btrfsRootInode = 256

// IsFilesystemRoot says whether an open directory is where a filesystem is mounted, as opposed to a
// directory of the filesystem above it, also when that directory is bind-mounted on itself, as it
// is in a container. A btrfs subvolume counts as a filesystem.
func IsFilesystemRoot(d *os.File) (bool, error) {
	mounts, err := Table()
	if err != nil {
		return false, err
	}
	m, err := Of(mounts, d)
	if err != nil {
		return false, err
	}
	resolved, err := os.Readlink(fdPath(d))
	if err != nil || m.Point != resolved {
		return false, err
	}
	if m.Root == "/" {
		return true, nil
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(d.Fd()), &fs), unix.Fstat(int(d.Fd()), &st)); err != nil {
		return false, fmt.Errorf("stat of %s: %w", resolved, err)
	}
	return fs.Type == unix.BTRFS_SUPER_MAGIC && st.Ino == btrfsRootInode, nil
}

// IsShared says whether what is mounted below a directory shows in the mount namespaces that share
// it.
func IsShared(name string) (bool, error) {
	d, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer d.Close()
	mounts, err := Table()
	if err != nil {
		return false, err
	}
	m, err := Of(mounts, d)
	return m.Shared, err
}

// Of finds the mount through which a file was opened, in a mount table that was read after that.
func Of(mounts []Mount, f *os.File) (Mount, error) {
	id, err := mountID(f)
	if err != nil {
		return Mount{}, err
	}
	i := slices.IndexFunc(mounts, func(m Mount) bool { return m.ID == id })
	if i < 0 {
		return Mount{}, fmt.Errorf("mount %d of %s is not in the mount table", id, f.Name())
	}
	return mounts[i], nil
}

// mountID is the ID that the mount table uses (proc_pid_fdinfo(5)).
func mountID(f *os.File) (int, error) {
	info, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return 0, err
	}
	defer info.Close()
	lines := bufio.NewScanner(info)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, errors.Join(fmt.Errorf("%s has no mnt_id", info.Name()), lines.Err())
}

// fdPath names an open file for the system calls that take no descriptor.
func fdPath(f *os.File) string { return descriptorPath(int(f.Fd())) }

func descriptorPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
