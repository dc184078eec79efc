package mount

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// btrfsRootInode is the inode number of every btrfs subvolume's root (BTRFS_FIRST_FREE_OBJECTID).
const btrfsRootInode = 256

// CheckMountpoint returns nil if somebody has mounted a filesystem, or a directory of one, at an
// open directory. Mounts that say nothing of a disk do not count: a directory that is mounted on
// itself, and what a container's runtime has mounted to give the container its directory of the
// node. Errors: ErrNoMountpoint, which says what is there.
func CheckMountpoint(d *os.File) error {
	mounts, err := Table()
	if err != nil {
		return err
	}
	m, err := Of(mounts, d)
	if err != nil {
		return err
	}
	name, err := os.Readlink(openat.Path(d))
	if err != nil {
		return err
	}
	if m.Point != name {
		return fmt.Errorf("%w: nothing is mounted on it", ErrNoMountpoint)
	}
	isRoot, err := m.showsRoot(d)
	if isRoot || err != nil {
		return err
	}
	below := parentOfMount(mounts, m)
	switch {
	case below.at(m.Point) == (Location{device: m.Device, root: m.Root}):
		return fmt.Errorf("%w: it is mounted on itself", ErrNoMountpoint)
	case below.Point == "/" && (below.FSType == "overlay" || HasOwnNamespace()):
		return fmt.Errorf("%w: it is directory %s of the node, mounted for this container: mount the "+
			"directory above into the container", ErrNoMountpoint, m.Root)
	}
	return nil
}

// ErrNoMountpoint says that no filesystem is mounted at a directory.
var ErrNoMountpoint = errors.New("not a mount point of the node")

// showsRoot reports whether the mount of an open directory shows the root of a filesystem or of a
// btrfs subvolume there.
func (m Mount) showsRoot(d *os.File) (bool, error) {
	if m.Root == "/" {
		return true, nil
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(d.Fd()), &fs), unix.Fstat(int(d.Fd()), &st)); err != nil {
		return false, fmt.Errorf("stat of %s: %w", m.Point, err)
	}
	return fs.Type == unix.BTRFS_SUPER_MAGIC && st.Ino == btrfsRootInode, nil
}

// parentOfMount returns the mount that has the mount point of m.
func parentOfMount(mounts []Mount, m Mount) Mount {
	i := slices.IndexFunc(mounts, func(other Mount) bool { return other.ID == m.parent })
	if i < 0 {
		return Mount{} // it is outside of this process's root directory (chroot(2))
	}
	return mounts[i]
}

// at returns what the mount shows at a path below its mount point.
func (m Mount) at(name string) Location {
	rel, _ := below(m.Point, name)
	return Location{device: m.Device, root: path.Join(m.Root, rel)}
}

// IsNoExec reports whether no program can be started from the mount of an open file or directory.
func IsNoExec(f *os.File) (bool, error) {
	flags, err := mountFlags(f)
	return flags&unix.ST_NOEXEC != 0, err
}
