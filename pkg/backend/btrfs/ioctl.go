package btrfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// The requests of include/uapi/linux/btrfs.h; x/sys has none of them. The number in each is
// _IO[WR](0x94, n, structure).
const (
	iocSnapDestroyV2  = 0x5000943f // BTRFS_IOC_SNAP_DESTROY_V2, Linux 5.7
	iocSubvolCreateV2 = 0x50009418 // BTRFS_IOC_SUBVOL_CREATE_V2
	iocSnapCreateV2   = 0x50009417 // BTRFS_IOC_SNAP_CREATE_V2
	iocStartSync      = 0x80089418 // BTRFS_IOC_START_SYNC
	iocGetSubvolInfo  = 0x81f8943c // BTRFS_IOC_GET_SUBVOL_INFO, Linux 4.18
	iocSetFlags       = 0x4008941a // BTRFS_IOC_SUBVOL_SETFLAGS
	iocInoLookup      = 0xd0009412 // BTRFS_IOC_INO_LOOKUP
	iocTreeSearchV2   = 0xc0709411 // BTRFS_IOC_TREE_SEARCH_V2
	iocQuotaCtl       = 0xc0109428 // BTRFS_IOC_QUOTA_CTL
	iocQgroupAssign   = 0x40189429 // BTRFS_IOC_QGROUP_ASSIGN
	iocQgroupCreate   = 0x4010942a // BTRFS_IOC_QGROUP_CREATE
	iocQgroupLimit    = 0x8030942b // BTRFS_IOC_QGROUP_LIMIT
)

const (
	quotaEnable       = 1 // BTRFS_QUOTA_CTL_ENABLE
	quotaEnableSimple = 4 // BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA, Linux 6.7

	readOnly      = 1 << 1 // BTRFS_SUBVOL_RDONLY
	inheritQgroup = 1 << 2 // BTRFS_SUBVOL_QGROUP_INHERIT
	limitMaxRfer  = 1 << 0 // BTRFS_QGROUP_LIMIT_MAX_RFER

	firstFreeObject = 256 // BTRFS_FIRST_FREE_OBJECTID, the inode number of every subvolume's root
)

// Trees, and the types of their items (include/uapi/linux/btrfs_tree.h).
const (
	rootTree  = 1 // BTRFS_ROOT_TREE_OBJECTID
	quotaTree = 8 // BTRFS_QUOTA_TREE_OBJECTID

	rootItem       = 132
	rootRef        = 156
	qgroupStatus   = 240
	qgroupInfo     = 242
	qgroupLimit    = 244
	qgroupRelation = 246

	statusSimple       = 1 << 3 // BTRFS_QGROUP_STATUS_FLAG_SIMPLE_MODE
	statusInconsistent = 1 << 2 // BTRFS_QGROUP_STATUS_FLAG_INCONSISTENT
	statusOn           = 1 << 0 // BTRFS_QGROUP_STATUS_FLAG_ON
)

// volArgs is struct btrfs_ioctl_vol_args_v2.
type volArgs struct {
	fd      int64
	_       uint64
	flags   uint64
	size    uint64
	inherit *qgroupInherit
	_       [2]uint64
	name    [4040]byte
}

// qgroupInherit is struct btrfs_qgroup_inherit with one group.
type qgroupInherit struct {
	_       uint64
	qgroups uint64
	_       [2]uint64
	_       limits
	group   uint64
}

// limits is struct btrfs_qgroup_limit.
type limits struct {
	flags, maxRfer uint64
	_              [3]uint64
}

// limitArgs is struct btrfs_ioctl_qgroup_limit_args.
type limitArgs struct {
	group uint64
	limits
}

// quotaArgs is struct btrfs_ioctl_quota_ctl_args.
type quotaArgs struct{ cmd, _ uint64 }

// createArgs is struct btrfs_ioctl_qgroup_create_args.
type createArgs struct{ create, group uint64 }

// assignArgs is struct btrfs_ioctl_qgroup_assign_args.
type assignArgs struct{ assign, member, group uint64 }

// subvolumeInfo is struct btrfs_ioctl_get_subvol_info_args. otransid is the transaction that made
// the subvolume.
type subvolumeInfo struct {
	_        uint64
	_        [256]byte
	_        [4]uint64
	_        [48]byte
	_        uint64
	otransid uint64
	_        [18]uint64
}

// lookupArgs is struct btrfs_ioctl_ino_lookup_args.
type lookupArgs struct {
	tree, object uint64
	_            [4080]byte
}

// searchArgs is struct btrfs_ioctl_search_args_v2 with its buffer.
type searchArgs struct {
	tree                 uint64
	minObject, maxObject uint64
	minOffset, maxOffset uint64
	_, maxTransid        uint64
	minType, maxType     uint32
	items                uint32
	_                    uint32
	_                    [4]uint64
	size                 uint64
	buffer               [searchBuffer]byte
}

const (
	searchBuffer = 4096
	// searchHeader is the size of struct btrfs_ioctl_search_header: transid, objectid, offset,
	// type, len.
	searchHeader = 32
)

func ioctl[T any](f *os.File, request uintptr, what string, arg *T) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request,
			uintptr(unsafe.Pointer(arg))) //nolint:gosec // the kernel's own structure
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		default:
			return fmt.Errorf("btrfs: %s: %w", what, errno)
		}
	}
}

// filesystem is the filesystem of root.
type filesystem struct{ root *os.File }

// item is one item of a tree.
type item struct {
	offset uint64
	data   []byte
}

// items reads the items of an object that have one type and an offset within bounds, as many as fit
// into the buffer. It is no error if there are none.
func (f filesystem) items(
	tree, object uint64, kind uint32, minOffset, maxOffset uint64,
) ([]item, error) {
	args := searchArgs{
		tree:      tree,
		minObject: object, maxObject: object,
		minOffset: minOffset, maxOffset: maxOffset,
		maxTransid: ^uint64(0),
		minType:    kind, maxType: kind,
		items: ^uint32(0),
		size:  searchBuffer,
	}
	err := ioctl(f.root, iocTreeSearchV2, "search", &args)
	if errors.Is(err, unix.ENOENT) { // there is no such tree
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []item
	rest := args.buffer[:]
	for range args.items {
		size := searchHeader + int(binary.NativeEndian.Uint32(rest[28:]))
		found = append(found,
			item{offset: binary.NativeEndian.Uint64(rest[16:]), data: rest[searchHeader:size:size]})
		rest = rest[size:]
	}
	return found, nil
}

// quotaItem reads one item of the quota tree; nil if it does not exist.
func (f filesystem) quotaItem(kind uint32, group uint64) ([]byte, error) {
	found, err := f.items(quotaTree, 0, kind, group, group)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0].data, nil
}

// each calls visit for every item of an object that has one type.
func (f filesystem) each(tree, object uint64, kind uint32, visit func(item) error) error {
	for next := uint64(0); ; {
		found, err := f.items(tree, object, kind, next, ^uint64(0))
		if err != nil || len(found) == 0 {
			return err
		}
		for _, i := range found {
			if err := visit(i); err != nil {
				return err
			}
			next = i.offset + 1
		}
	}
}

// numbers reads n little-endian numbers from an item; numbers beyond its end are 0.
func numbers(data []byte, n int) []uint64 {
	values := make([]uint64, n)
	for i := range values {
		if len(data) >= 8*(i+1) {
			values[i] = binary.LittleEndian.Uint64(data[8*i:])
		}
	}
	return values
}

// createSubvolume makes a subvolume in a quota group; group 0 means none.
func createSubvolume(dir *os.File, name string, group uint64) error {
	args := newVolArgs(name, group)
	return ioctl(dir, iocSubvolCreateV2, "create subvolume", &args)
}

// createSnapshot makes a snapshot of a subvolume of the same filesystem, after the subvolume's page
// cache was written. The snapshot is committed when createSnapshot returns (create_snapshot in
// fs/btrfs/ioctl.c).
func createSnapshot(dir *os.File, name string, of *os.File, group, flags uint64) error {
	args := newVolArgs(name, group)
	args.fd = int64(of.Fd()) //nolint:gosec // a descriptor is small
	args.flags |= flags
	err := ioctl(dir, iocSnapCreateV2, "create snapshot", &args)
	runtime.KeepAlive(of)
	return err
}

// newVolArgs returns the arguments for a new subvolume in a quota group; group 0 means none.
func newVolArgs(name string, group uint64) (args volArgs) {
	copy(args.name[:], name)
	if group != 0 {
		args.flags = inheritQgroup
		args.inherit = &qgroupInherit{qgroups: 1, group: group}
		args.size = uint64(unsafe.Sizeof(*args.inherit))
	}
	return args
}

func destroySubvolume(dir *os.File, name []byte) error {
	var args volArgs
	copy(args.name[:], name)
	return ioctl(dir, iocSnapDestroyV2,
		"destroy subvolume "+string(bytes.ToValidUTF8(name, []byte{'?'})), &args)
}

// subvolumeOf returns the ID of the subvolume of an open file.
func subvolumeOf(f *os.File) (uint64, error) {
	args := lookupArgs{object: firstFreeObject}
	err := ioctl(f, iocInoLookup, "find subvolume of "+f.Name(), &args)
	return args.tree, err
}

// isSubvolume reports whether a file is the root of a subvolume.
func isSubvolume(f *os.File) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return false, err
	}
	return st.Ino == firstFreeObject && st.Mode&unix.S_IFMT == unix.S_IFDIR &&
		fs.Type == unix.BTRFS_SUPER_MAGIC, nil
}

// handleType is FILEID_BTRFS_WITHOUT_PARENT (name_to_handle_at(2)), a number that the kernel keeps
// for ever.
const handleType = 0x4d

// openDir opens a directory by its inode number and its subvolume, at any depth. A generation of 0
// is not compared (fs/btrfs/export.c, struct btrfs_fid and btrfs_get_dentry). It needs
// CAP_DAC_READ_SEARCH.
func (f filesystem) openDir(subvolume, inode uint64) (*os.File, error) {
	var fid [20]byte
	binary.NativeEndian.PutUint64(fid[0:], inode)
	binary.NativeEndian.PutUint64(fid[8:], subvolume)
	fd, err := unix.OpenByHandleAt(int(f.root.Fd()), unix.NewFileHandle(handleType, fid[:]),
		unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("btrfs: open inode %d of subvolume %d: %w", inode, subvolume, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("inode %d of subvolume %d", inode, subvolume)), nil
}

// unlock makes a subvolume or a directory writable: it clears read-only, immutable and append-only.
// If it fails, the removal that follows fails, and that error says more.
func unlock(f *os.File) {
	var flags uint64
	_ = ioctl(f, iocSetFlags, "make subvolume writable", &flags)
	openat.ClearAttributes(f)
}
