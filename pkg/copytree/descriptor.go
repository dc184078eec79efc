package copytree

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// descriptor is an open file. An *os.File costs more than copying a small file: it is registered
// with the garbage collector, and asked whether it can be polled.
type descriptor int

func (d descriptor) close() { _ = unix.Close(int(d)) }

// entry opens an entry of any type without effects on it: it opens a link itself, it does not wait
// for the other end of a FIFO, and no device notices.
func (d descriptor) entry(name string) (descriptor, error) {
	return d.openBeneath(name, unix.O_PATH|unix.O_NOFOLLOW)
}

// subdirectory opens a directory for reading.
func (d descriptor) subdirectory(name string) (descriptor, error) {
	return d.openBeneath(name, readDirectory)
}

// readFile and readDirectory do not change the time of the last access. O_NONBLOCK returns EAGAIN
// for a file with a lease (fcntl(2), F_SETLEASE), instead of waiting.
const (
	readFile      = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOATIME
	readDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME
)

// openBeneath opens one name in a directory: it follows no link and crosses no mount.
func (d descriptor) openBeneath(name string, flags int) (descriptor, error) {
	fd, err := openat.ResolveFD(int(d), name, flags, openat.OnMount)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: strconv.Quote(name), Err: err}
	}
	return descriptor(fd), nil
}

// reopen opens the same directory with a position of its own.
func (d descriptor) reopen() (descriptor, error) {
	fd, err := openat.OpenFD(int(d), ".", readDirectory, 0)
	return descriptor(fd), os.NewSyscallError("openat", err)
}

// create makes a regular file. Its mode is reduced by the umask and has no set-ID bits, which the
// file gets when it is complete. Until then nobody can reach it, because its directory gets its
// mode last.
func (d descriptor) create(name string, mode uint32) (descriptor, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	fd, err := openat.OpenFD(int(d), name, flags, mode&0o777)
	if err != nil {
		return -1, &os.PathError{Op: "create", Path: strconv.Quote(name), Err: err}
	}
	return descriptor(fd), nil
}

// path names the open file for system calls that take no O_PATH descriptor.
func (d descriptor) path() string { return openat.PathOfFD(int(d)) }

// inode distinguishes a file of a machine from all others, also from a later one that gets its
// number.
type inode struct {
	device uint64
	number uint64
	born   unix.StatxTimestamp
}

// attributes are what statx(2) returns.
type attributes struct {
	inode

	mode         uint32
	uid, gid     uint32
	links        uint32
	size, blocks int64 // in bytes
	atime, mtime unix.Timespec
	ctime        unix.StatxTimestamp
	rdev         uint64
}

// fileType is S_IFDIR, S_IFREG and so on.
func (a *attributes) fileType() uint32 { return a.mode & unix.S_IFMT }

// permissions are the bits that chmod(2) takes.
func (a *attributes) permissions() uint32 { return a.mode &^ unix.S_IFMT }

// isWhiteout reports whether the file is a whiteout of overlayfs, which marks a deleted file
// (WHITEOUT_DEV of linux/fs.h). It is no name of a device.
func (a *attributes) isWhiteout() bool { return a.fileType() == unix.S_IFCHR && a.rdev == 0 }

func (d descriptor) attributes() (attributes, error) {
	var st unix.Statx_t
	err := unix.Statx(int(d), "", unix.AT_EMPTY_PATH|unix.AT_STATX_SYNC_AS_STAT,
		unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	if err != nil {
		return attributes{}, os.NewSyscallError("statx", err)
	}
	return attributes{
		inode: inode{device: unix.Mkdev(st.Dev_major, st.Dev_minor), number: st.Ino, born: st.Btime},
		mode:  uint32(st.Mode),
		uid:   st.Uid,
		gid:   st.Gid,
		links: st.Nlink,
		size:  int64(st.Size), //nolint:gosec // the kernel's loff_t is signed
		// statx(2) counts blocks of 512 bytes, whatever the filesystem's blocks are.
		blocks: int64(st.Blocks) * 512, //nolint:gosec // as above
		atime:  timespec(st.Atime),
		mtime:  timespec(st.Mtime),
		ctime:  st.Ctime,
		rdev:   unix.Mkdev(st.Rdev_major, st.Rdev_minor),
	}, nil
}

func timespec(t unix.StatxTimestamp) unix.Timespec {
	return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)}
}
