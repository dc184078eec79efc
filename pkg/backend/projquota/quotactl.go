package projquota

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Of quotactl(2), linux/quota.h, linux/dqblk_xfs.h and linux/fs.h; x/sys has none of these.
const (
	prjQuota = 2 // PRJQUOTA

	cmdGetQuota = 0x800007 // Q_GETQUOTA
	cmdSetQuota = 0x800008 // Q_SETQUOTA
	cmdGetStat  = 0x5805   // Q_XGETQSTAT, for every filesystem with quotas, not only XFS

	projectEnforced = 1 << 5 // FS_QUOTA_PDQ_ENFD
	validLimits     = 1 | 4  // QIF_BLIMITS | QIF_ILIMITS
	blockBytes      = 1024   // QIF_DQBLKSIZE: the unit of limits

	ioctlGetAttr   = 0x801c581f // FS_IOC_FSGETXATTR
	ioctlSetAttr   = 0x401c5820 // FS_IOC_FSSETXATTR
	inheritProject = 0x200      // FS_XFLAG_PROJINHERIT
)

// dqblk is struct if_dqblk.
type dqblk struct {
	blockHard, blockSoft uint64 // in blockBytes
	curSpace             uint64 // in bytes
	inodeHard, inodeSoft uint64
	curInodes            uint64
	blockTime, inodeTime uint64
	valid                uint32
	_                    uint32
}

// quotaStat is struct fs_quota_stat.
type quotaStat struct {
	version int8
	flags   uint16
	_       [76]byte
}

// attributes is struct fsxattr.
type attributes struct {
	flags, extentSize, extents, project, cowExtentSize uint32
	_                                                  [8]byte
}

// quota has the project quotas of the filesystem of root.
type quota struct {
	root *os.File
	// device is the filesystem's block device, open with O_PATH, if the kernel needs it; else nil.
	device *os.File
}

// limits are the limits of one project; 0 means none.
type limits struct {
	bytes  int64
	inodes uint64
}

// call is quotactl_fd(2), which needs no path of a device. Before Linux 5.14 it is quotactl(2).
func (q quota) call(cmd int, id volume.QuotaID, arg unsafe.Pointer) error {
	if q.device != nil {
		return q.callDevice(cmd, id, arg)
	}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, q.root.Fd(), uintptr(cmd<<8|prjQuota),
		uintptr(id), uintptr(arg), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (q quota) callDevice(cmd int, id volume.QuotaID, arg unsafe.Pointer) error {
	path, err := unix.BytePtrFromString(openat.Path(q.device))
	if err != nil {
		return err
	}
	//nolint:gosec // the kernel reads the path
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, uintptr(cmd<<8|prjQuota),
		uintptr(unsafe.Pointer(path)), uintptr(id), uintptr(arg), 0, 0)
	runtime.KeepAlive(q.device)
	if errno != 0 {
		return errno
	}
	return nil
}

// enforced reports whether the filesystem enforces limits of projects.
func (q quota) enforced() (bool, error) {
	var st quotaStat
	err := q.call(cmdGetStat, 0, unsafe.Pointer(&st)) //nolint:gosec // the kernel fills it
	switch {
	case err == nil:
		return st.flags&projectEnforced != 0, nil
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESRCH):
		return false, nil // no quotas in the kernel, the filesystem, or its mount
	default:
		return false, fmt.Errorf("ask for the filesystem's quotas: %w", err)
	}
}

func (q quota) get(id volume.QuotaID) (dqblk, error) {
	var d dqblk
	err := q.call(cmdGetQuota, id, unsafe.Pointer(&d)) //nolint:gosec // the kernel fills it
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		// XFS has no entry of an ID that was never used.
		return dqblk{}, nil
	case err != nil:
		return dqblk{}, fmt.Errorf("quota of project %d: %w", id, err)
	default:
		return d, nil
	}
}

// isFree reports whether nobody uses an ID: nothing counts for it, and it has no limit. An ID with
// a limit may be that of a deleted volume, or of somebody who has not written anything yet.
func (q quota) isFree(id volume.QuotaID) (bool, error) {
	d, err := q.get(id)
	return d.isUnused() && d.limits() == (dqblk{}), err
}

// limits are what is limited of an ID.
func (d dqblk) limits() dqblk {
	return dqblk{
		blockHard: d.blockHard, blockSoft: d.blockSoft, inodeHard: d.inodeHard, inodeSoft: d.inodeSoft,
	}
}

func (d dqblk) isUnused() bool { return d.curSpace == 0 && d.curInodes == 0 }

// setLimits limits a project's size, rounded up to a whole kilobyte, and its number of inodes.
func (q quota) setLimits(id volume.QuotaID, l limits) error {
	d := dqblk{blockHard: limitBlocks(l.bytes), inodeHard: l.inodes, valid: validLimits}
	err := q.call(cmdSetQuota, id, unsafe.Pointer(&d)) //nolint:gosec // the kernel reads it
	if err != nil {
		return fmt.Errorf("limit project %d to %d bytes and %d inodes (0: any number): %w",
			id, l.bytes, l.inodes, err)
	}
	return nil
}

// ensureLimits sets limits that differ, and returns whether it did: at a start those of almost all
// volumes are right.
func (q quota) ensureLimits(id volume.QuotaID, l limits) (changed bool, err error) {
	d, err := q.get(id)
	if err != nil {
		return false, err
	}
	if d.blockHard == limitBlocks(l.bytes) && d.inodeHard == l.inodes && d.blockSoft == 0 &&
		d.inodeSoft == 0 {
		return false, nil
	}
	return true, q.setLimits(id, l)
}

func limitBlocks(bytes int64) uint64 {
	return (uint64(bytes) + blockBytes - 1) / blockBytes //nolint:gosec // never negative
}

func limitBytes(d dqblk) int64 {
	return int64(d.blockHard * blockBytes) //nolint:gosec // what setLimits wrote
}

func getAttributes(f *os.File) (attributes, error) {
	var a attributes
	err := ioctl(f, ioctlGetAttr, &a)
	return a, err
}

// setProject gives an empty directory or file its project ID, which everything that is made in the
// directory inherits.
func setProject(f *os.File, id volume.QuotaID) error {
	_, err := ensureProject(f, id)
	return err
}

// ensureProject gives a file the project ID, and returns whether it had another one.
func ensureProject(f *os.File, id volume.QuotaID) (changed bool, err error) {
	have, err := getAttributes(f)
	if err != nil {
		return false, err
	}
	want, err := withProject(f, have, id)
	if err != nil || have == want {
		return false, err
	}
	return true, ioctl(f, ioctlSetAttr, &want)
}

func hasProject(f *os.File, id volume.QuotaID) (bool, error) {
	have, err := getAttributes(f)
	if err != nil {
		return false, err
	}
	want, err := withProject(f, have, id)
	return have == want, err
}

func withProject(f *os.File, a attributes, id volume.QuotaID) (attributes, error) {
	info, err := f.Stat()
	if err != nil {
		return a, err
	}
	a.project = uint32(id) //nolint:gosec // below firstQuotaID+quotaIDCount
	if info.IsDir() {
		a.flags |= inheritProject
	}
	return a, nil
}

func ioctl(f *os.File, request uintptr, a *attributes) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request,
		uintptr(unsafe.Pointer(a))) //nolint:gosec // the kernel's own structure
	if errno != 0 {
		return &os.PathError{Op: "ioctl", Path: f.Name(), Err: errno}
	}
	return nil
}
