package openat

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ChmodFD is chmod(2) of an open file, which may be an O_PATH descriptor. Before Linux 6.6
// (fchmodat2) it needs /proc, which takes longer. So it does where a container's seccomp profile
// does not know fchmodat2 and refuses it (EPERM).
func ChmodFD(fd int, mode uint32) error {
	err := unix.Fchmodat(fd, "", mode, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		return unix.Chmod(PathOfFD(fd), mode)
	}
	return err
}

// xattrArgs is struct xattr_args of linux/xattr.h.
type xattrArgs struct {
	value uint64
	size  uint32
	flags uint32
}

// GetxattrAt is lgetxattr(2) of an entry of a directory. Errors: ENOSYS before Linux 6.13
// (getxattrat), and those of lgetxattr(2).
func GetxattrAt(dir int, name, attribute string, value []byte) (int, error) {
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	key, err := unix.BytePtrFromString(attribute)
	if err != nil {
		return 0, err
	}
	args := xattrArgs{size: uint32(len(value))} //nolint:gosec // at most XATTR_SIZE_MAX
	if len(value) > 0 {
		args.value = uint64(uintptr(unsafe.Pointer(&value[0]))) //nolint:gosec // for the system call
	}
	//nolint:gosec // as x/sys does for the system calls that it has
	n, _, errno := unix.Syscall6(unix.SYS_GETXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(path)),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(key)), uintptr(unsafe.Pointer(&args)),
		unsafe.Sizeof(args))
	runtime.KeepAlive(value)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
