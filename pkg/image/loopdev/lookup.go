package loopdev

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// Under returns the device under the filesystem that an open file, also one opened with O_PATH, is
// on. It costs a few system calls. Errors: os.ErrNotExist when that is no loop device.
func Under(f *os.File) (*Device, error) {
	n, err := NumberUnder(f)
	if err != nil {
		return nil, err
	}
	return Open(n)
}

// NumberUnder is the number of the device that Under opens. The device is not asked: its file may
// be on a dead disk.
func NumberUnder(f *os.File) (int, error) {
	st, err := openat.StatCached(f)
	if err != nil {
		return 0, err
	}
	if n, ok := numberOf(unix.Mkdev(st.Dev_major, st.Dev_minor)); ok {
		return n, nil
	}
	if st.Attributes_mask&btrfsAttributes != btrfsAttributes {
		return 0, fmt.Errorf("%s is on no loop device: %w", f.Name(), os.ErrNotExist)
	}
	path, err := btrfsDevice(f)
	if err != nil {
		return 0, err
	}
	n, ok := NumberAt(path)
	if !ok {
		return 0, fmt.Errorf("%s is on no loop device: %w", f.Name(), os.ErrNotExist)
	}
	return n, nil
}

// NodeOf opens the device of which an open file, also one opened with O_PATH, is the node. Errors:
// os.ErrNotExist when the file is no loop device's node.
func NodeOf(f *os.File) (*Device, error) {
	n, err := NumberOfNode(f)
	if err != nil {
		return nil, err
	}
	return Open(n)
}

// NumberOfNode is the number of the device that NodeOf opens. The device is not asked, as in
// NumberUnder.
func NumberOfNode(f *os.File) (int, error) {
	st, err := openat.StatCached(f)
	if err != nil {
		return 0, err
	}
	n, ok := numberOf(unix.Mkdev(st.Rdev_major, st.Rdev_minor))
	if uint32(st.Mode)&unix.S_IFMT != unix.S_IFBLK || !ok {
		return 0, fmt.Errorf("%s is no loop device: %w", f.Name(), os.ErrNotExist)
	}
	return n, nil
}

// NumberAt is the number in a device's name, as the mount table has it. It is false for another
// device, and for a partition of a loop device.
func NumberAt(name string) (int, bool) {
	digits, ok := strings.CutPrefix(filepath.Base(name), "loop")
	n, err := strconv.ParseUint(digits, 10, 20) // a minor has 20 bits (linux/kdev_t.h)
	return int(n), ok && err == nil
}

// BackingPath is the path that the kernel has of a device's file. It may be a path of another mount
// namespace, and the file may have been moved since: what is found there has to be compared with
// Backing. Errors: os.ErrNotExist.
func BackingPath(number int) (string, error) {
	content, err := os.ReadFile(
		filepath.Join(sysfs, fmt.Sprintf("loop%d", number), "loop/backing_file"),
	)
	return strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), deleted), err
}

// deleted is what the kernel appends to the path of a removed file (d_path in fs/d_path.c).
const deleted = " (deleted)"

// btrfsDeviceInfo is struct btrfs_ioctl_dev_info_args of linux/btrfs.h.
type btrfsDeviceInfo struct {
	DeviceID   uint64
	UUID       [16]byte
	BytesUsed  uint64
	TotalBytes uint64
	Unused     [379]uint64
	Path       [1024]byte
}

// btrfsDevInfo is BTRFS_IOC_DEV_INFO of linux/btrfs.h: _IOWR(0x94, 30, struct
// btrfs_ioctl_dev_info_args).
const btrfsDevInfo = 0xd000941e

// btrfsAttributes are attributes that btrfs knows (btrfs_getattr in fs/btrfs/inode.c), and that no
// filesystem knows which may not answer, as FUSE and NFS: only btrfs is asked for its device.
const btrfsAttributes = unix.STATX_ATTR_APPEND | unix.STATX_ATTR_COMPRESSED |
	unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_NODUMP

// btrfsDevice is the path of the first device of the btrfs that a file is on. stat(2) does not say
// it: there st_dev is the subvolume's. Errors: os.ErrNotExist on another filesystem.
func btrfsDevice(f *os.File) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return "", &os.PathError{Op: "statfs", Path: f.Name(), Err: err}
	}
	if fs.Type != unix.BTRFS_SUPER_MAGIC {
		return "", fmt.Errorf("%s is on no loop device: %w", f.Name(), os.ErrNotExist)
	}
	// An ioctl needs more than O_PATH.
	readable, err := openat.Reopen(f, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", err
	}
	defer readable.Close()
	info := btrfsDeviceInfo{DeviceID: 1}
	err = ioctl(readable, btrfsDevInfo,
		unsafe.Pointer(&info)) //nolint:gosec // the structure of the request
	// its first device was removed from it: this is none of our filesystems
	if errors.Is(err, unix.ENODEV) {
		return "", fmt.Errorf("%s is on no loop device: %w", f.Name(), os.ErrNotExist)
	}
	if err != nil {
		return "", &os.PathError{Op: "BTRFS_IOC_DEV_INFO", Path: f.Name(), Err: err}
	}
	name, _, _ := bytes.Cut(info.Path[:], []byte{0})
	return string(name), nil
}

func getUint64(f *os.File, request uint) (n uint64, err error) {
	err = ioctl(f, request, unsafe.Pointer(&n)) //nolint:gosec // as above
	return n, err
}

func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(
		unix.SYS_IOCTL,
		f.Fd(),
		uintptr(request),
		uintptr(arg),
	); errno != 0 {
		return errno
	}
	return nil
}
