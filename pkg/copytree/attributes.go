package copytree

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// subject is a file whose attributes are read or set.
type subject interface {
	list(names []byte) (int, error)
	get(name string, value []byte) (int, error)
	set(name string, value []byte) error
	apply(a attributes) error
}

// opened is a file that is open for reading or writing. named is an O_PATH descriptor: system calls
// that take no such descriptor take its path below /proc, which leads to the open file itself.
type (
	opened descriptor
	named  descriptor
)

var (
	_ subject = opened(0)
	_ subject = named(0)
)

func (f opened) list(names []byte) (int, error) { return unix.Flistxattr(int(f), names) }

func (f opened) get(name string, value []byte) (int, error) {
	return unix.Fgetxattr(int(f), name, value)
}

func (f opened) set(name string, value []byte) error {
	return unix.Fsetxattr(int(f), name, value, 0)
}

func (f named) list(names []byte) (int, error) {
	return unix.Listxattr(descriptor(f).path(), names)
}

func (f named) get(name string, value []byte) (int, error) {
	return unix.Getxattr(descriptor(f).path(), name, value)
}

func (f named) set(name string, value []byte) error {
	return unix.Setxattr(descriptor(f).path(), name, value, 0)
}

// apply changes only what differs: most files are made with the right owner and mode, and each
// change costs entries of the filesystem's journal.
func (f opened) apply(a attributes) error {
	now, err := descriptor(f).attributes()
	if err != nil {
		return err
	}
	// Owner before mode: chown(2) clears set-ID bits.
	owned := now.uid == a.uid && now.gid == a.gid
	if !owned {
		if err := unix.Fchown(int(f), int(a.uid), int(a.gid)); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	if !owned || now.mode != a.mode {
		if err := unix.Fchmod(int(f), a.permissions()); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
	}
	return descriptor(f).setTimes(a)
}

func (f named) apply(a attributes) error {
	if err := unix.Fchownat(int(f), "", int(a.uid), int(a.gid), unix.AT_EMPTY_PATH); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	if a.fileType() != unix.S_IFLNK { // a link has no mode
		if err := unix.Chmod(descriptor(f).path(), a.permissions()); err != nil {
			return os.NewSyscallError("chmod", err)
		}
	}
	return descriptor(f).setTimes(a)
}

// setTimes sets the times of the last access and the last change of content.
func (d descriptor) setTimes(a attributes) error {
	times := []unix.Timespec{a.atime, a.mtime}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(int(d), "", times, unix.AT_EMPTY_PATH))
}

// copyAttributes gives dst those attributes of src that the policy allows.
func (p Policy) copyAttributes(src, dst subject, a attributes) error {
	if p.has(DropSetID) && a.fileType() != unix.S_IFDIR {
		a.mode &^= unix.S_ISUID | unix.S_ISGID
	}
	if err := dst.apply(a); err != nil {
		return err
	}
	// Owner before extended attributes: chown(2) removes capabilities. Setting them changes only the
	// ctime, which is not copied.
	return p.copyExtended(src, dst)
}

func (c *copier) copyAttributes(src, dst subject, a attributes) error {
	return c.Policy.copyAttributes(src, dst, a)
}

// extendedMax is XATTR_LIST_MAX, and XATTR_SIZE_MAX, of linux/limits.h.
const extendedMax = 64 << 10

// copyExtended copies the extended attributes, among them ACLs and capabilities.
func (p Policy) copyExtended(src, dst subject) error {
	size, err := src.list(nil)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && size == 0 {
		return nil
	}
	buffer, _ := buffers.Get().(*[MaxChunk]byte)
	defer buffers.Put(buffer)
	names, value := buffer[:extendedMax], buffer[extendedMax:2*extendedMax]
	if err == nil {
		size, err = src.list(names)
	}
	if err != nil {
		return os.NewSyscallError("listxattr", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:size]), "\x00"), "\x00") {
		if !p.copies(name) {
			continue
		}
		if err := copyOne(src, dst, name, value); err != nil {
			return fmt.Errorf("extended attribute %q: %w", name, err)
		}
	}
	return nil
}

func copyOne(src, dst subject, name string, buffer []byte) error {
	n, err := src.get(name, buffer)
	// The attribute was removed meanwhile; or it is a capability of zero bytes, which can be set but
	// not read (found by fuzzing).
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return err
	}
	return dst.set(name, buffer[:n])
}

const capabilities = "security.capability"

func (p Policy) copies(name string) bool {
	switch namespace, _, _ := strings.Cut(name, "."); namespace {
	case "security":
		return name == capabilities && !p.has(DropSetID)
	case "trusted":
		// XFS lists an ACL also under this name, which elsewhere is an attribute of its own
		// (fs/xfs/xfs_xattr.c).
		return !p.has(DropTrusted) && !strings.HasPrefix(name, "trusted.SGI_ACL_")
	case "btrfs": // properties such as compression, which are inode flags
		return false
	default:
		return true
	}
}
