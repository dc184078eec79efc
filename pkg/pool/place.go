package pool

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// place is where an open directory stands: which directory it is, and through which mount it was
// opened. The ID of a mount is not given out again while something is open through that mount.
type place struct {
	directory openat.Identity
	mountID   uint64
}

func placeOf(d *os.File) (place, error) {
	var st unix.Statx_t
	// The kernel has the answer in memory: AT_STATX_DONT_SYNC does not wait for a filesystem that
	// hangs.
	err := unix.Statx(int(d.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC,
		unix.STATX_INO|unix.STATX_MNT_ID, &st)
	if err != nil {
		return place{}, &os.PathError{Op: "statx", Path: d.Name(), Err: err}
	}
	return place{
		directory: openat.Identity{Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino},
		mountID:   st.Mnt_id,
	}, nil
}

// checkMayBeMade refuses to make a pool where another one was open, unless a disk has been mounted
// there since: the directory below the pool's disk is not the pool. Errors: ErrUnavailable.
func (p *Pool) checkMayBeMade() error {
	if !p.opts.WasOpen {
		return nil
	}
	isDisk, err := mount.IsFilesystemRoot(p.root.File)
	if err == nil && !isDisk {
		err = volume.Because(volume.ReasonNotMounted, fmt.Errorf(
			"%w: the pool that was open at this path is gone: mount its disk there, or move its "+
				"directory back (for an empty pool in this directory, restart the driver)",
			volume.ErrUnavailable))
	}
	return err
}

// CheckInPlace compares what stands at the pool's path with what the pool has open. The disk may
// have been unmounted or exchanged, another one may be mounted over the directory, or the directory
// may have been moved: the descriptors of the pool go on leading to the old one. It costs three
// system calls, and asks no filesystem but those on the way. A disk that has failed stands where it
// stood. Errors: ErrUnavailable.
func (p *Pool) CheckInPlace() error {
	d, err := os.OpenFile(p.opts.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return p.displaced("nothing is there")
	}
	if err != nil {
		return nil // the path cannot be read: the pool's other calls report the error
	}
	defer d.Close()
	there, err := placeOf(d)
	switch {
	case err != nil, there == p.place:
		return nil // as above
	case there.directory == p.place.directory:
		return p.displaced("its filesystem was unmounted, and is mounted again")
	default:
		return p.displaced("another directory is there")
	}
}

func (p *Pool) displaced(why string) error {
	return volume.Because(volume.ReasonDisplaced, fmt.Errorf(
		"pool %s at %s: %w: the pool that the driver has open is no longer at this path (%s): "+
			"mount its disk there, or move its directory back",
		p.opts.Name, p.opts.Path, volume.ErrUnavailable, why))
}
