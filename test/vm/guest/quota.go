package guest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// quotactl(2) and linux/quota.h: golang.org/x/sys/unix has none of it. The driver's own
// (pkg/backend/projquota) is not asked: it is what the tests are about.
const (
	qGetquota       = 0x800007
	qSetquota       = 0x800008
	qGetnextquota   = 0x800009
	prjquota        = 2
	subcommandShift = 8
	qifBlimits      = 1
	qifIlimits      = 4
	quotaBlock      = 1 << 10 // the unit of the limits

	// From linux/fs.h.
	fsIocFsgetxattr    = 0x801c581f
	fsIocFssetxattr    = 0x401c5820
	fsXflagProjinherit = 0x200
)

// fsxattr is struct fsxattr.
type fsxattr struct {
	Xflags, Extsize, Nextents, Projid, Cowextsize uint32
	_                                             [8]byte
}

// dqblk is struct if_nextdqblk, which begins as struct if_dqblk.
type dqblk struct {
	blockHard, blockSoft, curSpace, inodeHard, inodeSoft, curInodes, blockTime, inodeTime uint64
	valid                                                                                 uint32
	id                                                                                    uint32
}

// Quota is what a filesystem knows of a project: its limits, and what counts under it. 0 is no
// limit.
type Quota struct {
	LimitBytes, UsedBytes, LimitInodes, UsedInodes uint64
}

// ProjectQuota is that of one project of the filesystem on which dir is.
func ProjectQuota(t testing.TB, dir string, project uint32) Quota {
	t.Helper()
	var d dqblk
	if err := quotactl(dir, qGetquota, project, &d); err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatalf("Q_GETQUOTA of project %d: %v", project, err)
	}
	return d.quota()
}

// ProjectQuotas are those of all projects from first on that have a limit or anything that counts.
func ProjectQuotas(t testing.TB, dir string, first uint32) map[uint32]Quota {
	t.Helper()
	quotas := map[uint32]Quota{}
	for next := first; ; {
		var d dqblk
		err := quotactl(dir, qGetnextquota, next, &d)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			return quotas
		}
		if err != nil {
			t.Fatalf("Q_GETNEXTQUOTA from project %d on: %v", next, err)
		}
		if q := d.quota(); q != (Quota{}) {
			quotas[d.id] = q
		}
		next = d.id + 1
	}
}

// LimitProject gives a project a limit, as somebody else does who uses project quotas; 0 takes it
// away.
func LimitProject(t testing.TB, dir string, project uint32, bytes uint64) {
	t.Helper()
	if err := quotactl(
		dir,
		qSetquota,
		project,
		&dqblk{blockHard: bytes / quotaBlock, valid: qifBlimits},
	); err != nil {
		t.Fatalf("Q_SETQUOTA of project %d: %v", project, err)
	}
}

// UnlimitInodes lets a project have any number of them.
func UnlimitInodes(t testing.TB, dir string, project uint32) {
	t.Helper()
	if err := quotactl(dir, qSetquota, project, &dqblk{valid: qifIlimits}); err != nil {
		t.Fatalf("Q_SETQUOTA of project %d: %v", project, err)
	}
}

// ProjectOf returns the project ID of a directory or a regular file.
func ProjectOf(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var a fsxattr
	err = ioctl(f, fsIocFsgetxattr, &a)
	return a.Projid, err
}

// SetProject gives a directory or a regular file a project ID. What is made in the directory later
// inherits it. The owner of a file may do that.
func SetProject(path string, project uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var a fsxattr
	if err := ioctl(f, fsIocFsgetxattr, &a); err != nil {
		return err
	}
	a.Projid = project
	if info.IsDir() {
		a.Xflags |= fsXflagProjinherit
	}
	return ioctl(f, fsIocFssetxattr, &a)
}

func ioctl(f *os.File, request uintptr, a *fsxattr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request,
		uintptr(unsafe.Pointer(a))) //nolint:gosec // the kernel's own structure
	if errno != 0 {
		return &os.PathError{Op: "ioctl", Path: f.Name(), Err: errno}
	}
	return nil
}

func (d dqblk) quota() Quota {
	return Quota{
		LimitBytes:  d.blockHard * quotaBlock,
		UsedBytes:   d.curSpace,
		LimitInodes: d.inodeHard,
		UsedInodes:  d.curInodes,
	}
}

// quotactl needs no device: quotactl_fd(2) takes any file of the filesystem.
func quotactl(dir string, command uintptr, project uint32, d *dqblk) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), command<<subcommandShift|prjquota,
		uintptr(project), uintptr(unsafe.Pointer(d)), 0, 0) //nolint:gosec // as the kernel has it
	if errno != 0 {
		return fmt.Errorf("quotactl_fd: %w", errno)
	}
	return nil
}

// AsPod runs f as a container without privileges would: ext4 lets CAP_SYS_RESOURCE write past every
// limit (XFS does not, for projects). The thread gets the capability back: were it to end, the
// processes that it has started would be killed (PR_SET_PDEATHSIG).
func AsPod(f func() error) error {
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		return err
	}
	has := had
	has[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	if err := unix.Capset(&header, &has[0]); err != nil {
		return err
	}
	err := f()
	if restored := unix.Capset(&header, &had[0]); restored != nil {
		return errors.Join(err, restored) // the thread stays locked, and is nobody else's
	}
	runtime.UnlockOSThread()
	return err
}
