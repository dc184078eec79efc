package layout

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// opened is which directory is open, and through which mount. The ID of a mount is not given out
// again while something is open through that mount.
type opened struct {
	directory openat.Identity
	mountID   uint64
}

func openedOf(d *os.File) (opened, error) {
	var st unix.Statx_t
	// The kernel has the answer in memory: AT_STATX_DONT_SYNC does not wait for a filesystem that
	// hangs.
	err := unix.Statx(int(d.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC,
		unix.STATX_INO|unix.STATX_MNT_ID, &st)
	if err != nil {
		return opened{}, &os.PathError{Op: "statx", Path: d.Name(), Err: err}
	}
	return opened{
		directory: openat.Identity{Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino},
		mountID:   st.Mnt_id,
	}, nil
}

// CheckAtPath compares the directory at the pool's path with the open one. The disk may have been
// unmounted or exchanged, another one may be mounted over the directory, or the directory may have
// been moved: the descriptors go on leading to the old one. It costs three system calls, and asks
// no filesystem but those on the way. A disk that has failed is still at its path. Errors:
// ErrUnavailable.
func (d *Dir) CheckAtPath() error {
	f, err := os.OpenFile(d.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return displaced("nothing is there")
	}
	if err != nil {
		return nil // the path cannot be read: the pool's other calls report the error
	}
	defer f.Close()
	now, err := openedOf(f)
	switch {
	case err != nil, now == d.opened:
		return nil // as above
	case now.directory == d.opened.directory:
		return displaced("its filesystem was unmounted, and is mounted again")
	default:
		return displaced("another directory is there")
	}
}

func displaced(why string) error {
	return volume.Because(volume.ReasonDisplaced, fmt.Errorf(
		"%w: the pool that the driver has open is no longer at this path (%s): "+
			"mount its disk there, or move its directory back", volume.ErrUnavailable, why))
}
