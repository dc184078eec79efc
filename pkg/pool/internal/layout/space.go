package layout

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Space is the size and the use of a filesystem, in bytes.
type Space struct {
	Size int64
	Free int64 // what an unprivileged writer can still write
	Used int64 // with what the filesystem reserves for root
}

// Space reads the size and the use of the pool's filesystem. It costs a few system calls, whatever
// the pool has. Errors: ErrUnavailable when the disk has failed or is no longer at the pool's path,
// or when the filesystem is mounted read-only.
func (d *Dir) Space() (Space, error) {
	if err := errors.Join(d.checkDisk(), d.CheckAtPath()); err != nil {
		return Space{}, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(d.Root.FD(), &st); err != nil {
		return Space{}, os.NewSyscallError("statfs", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		err := fmt.Errorf("%w: its filesystem is mounted read-only: "+
			"look into the kernel's log for disk errors, remount it", volume.ErrUnavailable)
		return Space{}, volume.Because(volume.ReasonReadOnly, err)
	}
	return Space{
		Size: mount.Bytes(st.Blocks, st.Bsize),
		Free: mount.Bytes(st.Bavail, st.Bsize),
		Used: mount.Bytes(st.Blocks-min(st.Blocks, st.Bavail), st.Bsize),
	}, nil
}

// checkDisk says whether the filesystem still works. statfs(2) cannot tell: XFS shuts itself down
// when its disk fails, and statfs then still returns the last sizes. Errors: ErrUnavailable.
func (d *Dir) checkDisk() error {
	var st unix.Stat_t
	if err := unix.Fstat(d.Root.FD(), &st); err != nil {
		err = fmt.Errorf("%w: its disk has failed (%w): "+
			"look into the kernel's log, and stop the driver to replace it", volume.ErrUnavailable, err)
		return volume.Because(volume.ReasonDiskFailed, err)
	}
	return nil
}
