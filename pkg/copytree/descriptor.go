package copytree

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// descriptor is an open file. An *os.File costs more than copying a small file does: it is
// registered with the garbage collector and asked whether it can be polled.
type descriptor int

// beneath resolves one name in a directory: no link, no magic link, no mount, no "..".
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func (d descriptor) close() { _ = unix.Close(int(d)) }

// entry opens whatever has a name, without doing anything to it: a link is opened itself, a FIFO
// does not wait for its other end, a device does not notice.
func (d descriptor) entry(name string) (descriptor, error) {
	return d.openBeneath(name, unix.O_PATH|unix.O_NOFOLLOW)
}

// subdirectory opens a directory for reading.
func (d descriptor) subdirectory(name string) (descriptor, error) {
	return d.openBeneath(name, readDirectory)
}

// readDirectory and readFile leave the time of the last access alone. A file that is leased
// (fcntl(2), F_SETLEASE) would keep us waiting.
const (
	readFile      = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOATIME
	readDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME
)

func (d descriptor) openBeneath(name string, flags uint64) (descriptor, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: beneath}
	for {
		fd, err := unix.Openat2(int(d), name, &how)
		switch {
		// EAGAIN: something was renamed or mounted somewhere, and the kernel cannot be sure that
		// nothing was left (openat2(2)).
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return -1, &os.PathError{Op: "open", Path: strconv.Quote(name), Err: err}
		default:
			return descriptor(fd), nil
		}
	}
}

// again opens the same directory with a position of its own.
func (d descriptor) again() (descriptor, error) {
	fd, err := unix.Openat(int(d), ".", readDirectory|unix.O_CLOEXEC, 0)
	return descriptor(fd), os.NewSyscallError("openat", err)
}

// create makes a regular file of a mode, as far as the umask allows and without set-ID bits: those
// are for when it is whole. Until then nobody reaches it, for its directory gets its mode last.
func (d descriptor) create(name string, mode uint32) (descriptor, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(d), name, flags, mode&0o777)
	if err != nil {
		return -1, &os.PathError{Op: "create", Path: strconv.Quote(name), Err: err}
	}
	return descriptor(fd), nil
}

// path names the very file that is open, also one that is open with O_PATH, to system calls that
// take no such descriptor.
func (d descriptor) path() string { return "/proc/self/fd/" + strconv.Itoa(int(d)) }

// inode tells a file of a machine from all others, also from a later one that gets its number.
type inode struct {
	device uint64
	number uint64
	born   unix.StatxTimestamp
}

// attributes are what stat(2) tells.
type attributes struct {
	inode

	mode         uint32
	uid, gid     uint32
	links        uint32
	size, blocks int64
	atime, mtime unix.Timespec
	ctime        unix.StatxTimestamp
	rdev         uint64
}

func (a *attributes) kind() uint32 { return a.mode & unix.S_IFMT }

// permissions are the bits that chmod(2) takes.
func (a *attributes) permissions() uint32 { return a.mode &^ unix.S_IFMT }

// isWhiteout: it is the name of no hardware, and says to overlayfs that something was deleted
// (WHITEOUT_DEV of linux/fs.h).
func (a *attributes) isWhiteout() bool { return a.kind() == unix.S_IFCHR && a.rdev == 0 }

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
		// stat(2) counts in 512 bytes, whatever the filesystem's blocks are.
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
