// Package openat works on files by descriptor, with the system calls that os does not offer: open
// beneath a directory without following a link or crossing a mount, rename without replacing, read
// a directory, remove a tree that somebody else may be changing. A path below a pool or below
// kubelet's directory leads through directories of pods, which may exchange any of them for a link
// at any time: a descriptor cannot be exchanged.
package openat

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Resolve says through what a path may lead (openat2(2)).
type Resolve uint64

const (
	// Beneath stays in the directory where the path starts: no "..", no absolute path, no link.
	// Mounts are crossed.
	Beneath Resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	// OnMount is Beneath and crosses no mount (EXDEV). What is mounted on a directory of a pool
	// belongs to somebody else.
	OnMount = Beneath | unix.RESOLVE_NO_XDEV
	// Known is Beneath, and takes only what the kernel knows already (EAGAIN): no filesystem is asked.
	// It is RESOLVE_CACHED of linux/openat2.h, since Linux 5.12 (EINVAL).
	Known = Beneath | 0x20
	// InRoot follows links as if the directory where the path starts were the root.
	InRoot Resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
)

// resolveTries bounds how often a path is resolved again after EAGAIN.
const resolveTries = 1000

// OpenFD is openat(2) for callers that cannot afford an *os.File. It adds O_CLOEXEC and repeats a
// call that a signal interrupted. Errors: the bare errno. The caller closes the descriptor.
func OpenFD(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// ResolveFD is openat2(2) for callers that cannot afford an *os.File. It adds O_CLOEXEC and repeats
// a call that a signal interrupted. Errors: the bare errno. The caller closes the descriptor.
func ResolveFD(dir int, path string, flags int, resolve Resolve) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC), //nolint:gosec // flags are never negative
		Resolve: uint64(resolve),
	}
	for range resolveTries {
		fd, err = unix.Openat2(dir, path, &how)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		// After a ".." the kernel cannot be sure that the path stayed in the directory if anything was
		// renamed or mounted meanwhile, anywhere on the node (openat2(2)). A pod may rename without
		// pause. With O_NONBLOCK, EAGAIN can also mean that a process has a lease on the file (fcntl(2)).
		case errors.Is(err, unix.EAGAIN) && flags&unix.O_NONBLOCK == 0 && resolve != Known:
			continue
		}
		break
	}
	return fd, err
}

// OpenFDDir opens the directory of this process's descriptors, /proc/self/fd, with O_PATH. A file
// in it that is named by a descriptor's number is the open file: OpenFD of that is cheaper than of
// PathOfFD. The caller closes it.
func OpenFDDir() (int, error) {
	fd, err := OpenFD(unix.AT_FDCWD, fdDir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: fdDir, Err: err}
	}
	return fd, nil
}

const fdDir = "/proc/self/fd"

// Path names an open file for system calls that take no descriptor, or no O_PATH descriptor. It
// leads to the file itself, also after the file was renamed or replaced. It is valid until f is
// closed.
func Path(f *os.File) string { return PathOfFD(int(f.Fd())) }

// PathOfFD is Path for a bare descriptor.
func PathOfFD(fd int) string { return fdDir + "/" + strconv.Itoa(fd) }

// PathForChildren is Path for a program that this process starts.
func PathForChildren(f *os.File) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
}

// Reopen opens the same file again, with flags and a position of its own. f may be an O_PATH
// descriptor. The caller closes both.
func Reopen(f *os.File, flags int) (*os.File, error) {
	fd, err := OpenFD(unix.AT_FDCWD, Path(f), flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "reopen", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Identity distinguishes a file from all others of the machine while the file exists. Identities
// compare with ==.
type Identity struct {
	Device uint64 // as unix.Mkdev makes it
	Inode  uint64
}

// IdentityOf returns the identity of an open file; f may be an O_PATH descriptor.
func IdentityOf(f *os.File) (Identity, error) {
	st, err := StatCached(f)
	if err != nil {
		return Identity{}, err
	}
	return Identity{Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino}, nil
}

// StatCached is what the kernel knows of an open file's device, number and type, which never
// change. It does not ask the server of the file's filesystem (FUSE, NFS), which may hang
// (AT_STATX_DONT_SYNC of statx(2)). f may be an O_PATH descriptor.
func StatCached(f *os.File) (st unix.Statx_t, err error) {
	err = unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC,
		unix.STATX_TYPE|unix.STATX_INO, &st)
	if err != nil {
		return st, &os.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	return st, nil
}

// IsOfDeadFilesystem reports whether an error means that a file's filesystem is dead: its disk has
// failed, or its server has gone (FUSE, NFS). What is mounted then only shows this error.
func IsOfDeadFilesystem(err error) bool {
	for _, dead := range []error{
		unix.EIO, unix.ESTALE, unix.ENOTCONN, unix.ECONNABORTED, unix.ESHUTDOWN,
	} {
		if errors.Is(err, dead) {
			return true
		}
	}
	return false
}
