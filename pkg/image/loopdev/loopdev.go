// Package loopdev attaches a file to a loop device and finds the device that a file is on
// (loop(4)). Which file a device has is decided by the file's identity. A name in /dev or in sysfs
// says only where to look.
package loopdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	control = "/dev/loop-control"
	sysfs   = "/sys/block"
	// major is LOOP_MAJOR of linux/major.h.
	major = 7
	// attachTries bounds the race for a free device with everybody else on the node.
	attachTries = 100
	// BlockSize is the block size of every device, in bytes. It is the same on every disk, so that
	// an image can move, and so that direct I/O works also on disks with sectors of 4 KiB. A file's
	// size has to be a multiple of it: the kernel cuts off the rest.
	BlockSize = 4096
)

// Access says who may write to a device.
type Access int

const (
	// ReadWrite lets everybody write who can open the device.
	ReadWrite Access = iota
	// ReadOnly refuses all writes: the kernel has the file open for reading only.
	ReadOnly
)

func (a Access) flag() int {
	if a == ReadOnly {
		return os.O_RDONLY
	}
	return os.O_RDWR
}

// Lifetime says when a device goes.
type Lifetime int

const (
	// WhileUsed detaches the device when nobody has it open or mounted any more, also after a crash
	// (LO_FLAGS_AUTOCLEAR).
	WhileUsed Lifetime = iota
	// UntilDetached keeps the device attached until Detach. A bind mount of its node does not count
	// as a use.
	UntilDetached
)

// Options say how a file is attached.
type Options struct {
	Access   Access
	Lifetime Lifetime
	// guards: the device is a guard, see Guard.
	guards bool
}

// Device is an attached loop device, held open. Whoever gets one closes it.
type Device struct {
	file   *os.File
	number int
	status status
}

// status is what LOOP_GET_STATUS64 says of a device.
type status struct {
	backing openat.Identity
	// node is the device number if the file is a device's node (st_rdev of stat(2)), else 0.
	node   uint64
	offset uint64
	flags  uint32
}

func (s status) access() Access {
	if s.flags&unix.LO_FLAGS_READ_ONLY != 0 {
		return ReadOnly
	}
	return ReadWrite
}

// Attach puts a file, which may be open with O_PATH only, on a free device, with direct I/O unless
// the file's filesystem cannot do it. The kernel does not look for partitions: the content is a
// pod's. The caller has made sure that the file is on no device yet, and that nobody else attaches
// it now. Errors: ErrNode when the node has no loop device for it.
func Attach(image *os.File, options Options) (*Device, error) {
	backing, err := openat.Reopen(image, options.Access.flag())
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	ctl, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf(
			"%w: no loop devices: %w: load the kernel's module loop, and give the driver the node's /dev",
			volume.ErrNode,
			err,
		)
	}
	defer ctl.Close()
	for range attachTries {
		d, err := attachFree(ctl, backing, options)
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENXIO) {
			return d, err
		}
	}
	return nil, fmt.Errorf("%w: no loop device was left free in %d tries", volume.ErrNode,
		attachTries)
}

// attachFree tries one device. EBUSY means that another process was first, and ENXIO that another
// process is just detaching it.
func attachFree(ctl, backing *os.File, options Options) (*Device, error) {
	f, n, err := openFree(ctl, options.Access)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{
		Fd:   uint32(backing.Fd()), //nolint:gosec // a small number
		Size: BlockSize,
		Info: unix.LoopInfo64{Flags: options.flags(), Offset: options.offset()},
	}
	if err := unix.IoctlLoopConfigure(int(f.Fd()), &config); err != nil {
		return nil, errors.Join(&os.PathError{Op: "LOOP_CONFIGURE", Path: f.Name(), Err: err}, f.Close())
	}
	failpoint.Here("image.attached")
	d := &Device{file: f, number: n}
	if d.status, err = readStatus(f); err != nil {
		err = errors.Join(err, d.Detach())
		d.Close()
		return nil, err
	}
	return d, nil
}

func (o Options) offset() uint64 {
	if o.guards {
		return guardOffset
	}
	return 0
}

func (o Options) flags() uint32 {
	flags := uint32(unix.LO_FLAGS_DIRECT_IO)
	if o.guards { // nothing is ever read from it
		flags = 0
	}
	if o.Access == ReadOnly {
		flags |= unix.LO_FLAGS_READ_ONLY
	}
	if o.Lifetime == WhileUsed {
		flags |= unix.LO_FLAGS_AUTOCLEAR
	}
	return flags
}

// Find opens the device with that access that a file is on. The file should be open with O_PATH
// only: Find is quick for a file that nobody has open. Otherwise its cost grows with the number of
// attached devices. A device whose file has another name is not asked: its file may be on a
// filesystem that does not answer. Errors: os.ErrNotExist.
func Find(image *os.File, access Access) (*Device, error) {
	want, err := openat.IdentityOf(image)
	if err != nil {
		return nil, err
	}
	if isOpenNowhere(image) {
		return nil, fmt.Errorf("%s is on no loop device: %w", image.Name(), os.ErrNotExist)
	}
	numbers, err := Attached()
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if !mayHave(n, image, 1) {
			continue
		}
		d, err := Open(n)
		switch {
		case errors.Is(err, os.ErrNotExist): // detached meanwhile
			continue
		case IsOfDeadDisk(err) && !mayHave(n, image, 3):
			continue
		case err != nil:
			return nil, err
		case d.status.backing == want && d.status.access() == access:
			return d, nil
		}
		d.Close()
	}
	return nil, fmt.Errorf("%s is on no loop device: %w", image.Name(), os.ErrNotExist)
}

// IsOfDeadDisk says whether an error means that a file's filesystem is dead. LOOP_GET_STATUS64 asks
// the filesystem of the device's file.
func IsOfDeadDisk(err error) bool { return openat.IsOfDeadFilesystem(err) }

// mayHave says whether a device may have a file, by the last parts of the kernel's path of the
// device's file. In doubt it may. The kernel reports no identifier that also occurs in our records,
// so the pool cannot be derived from the device.
func mayHave(number int, image *os.File, parts int) bool {
	theirs, err := BackingPath(number)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) { // detached meanwhile
		return false
	}
	if err != nil {
		return true
	}
	ours, err := os.Readlink(openat.Path(image))
	return err != nil || endOf(theirs, parts) == endOf(strings.TrimSuffix(ours, deleted), parts)
}

// endOf returns the last parts of a path.
func endOf(path string, parts int) string {
	all := strings.Split(path, "/")
	return strings.Join(all[max(0, len(all)-parts):], "/")
}

// isOpenNowhere says whether no loop device and no process has the file open. It asks for a write
// lease (fcntl(2), F_SETLEASE), which the kernel refuses for an open file. The lease ends with the
// descriptor. If the answer is not known, as on a filesystem without leases, isOpenNowhere is
// false.
func isOpenNowhere(f *os.File) bool {
	own, err := openat.Reopen(f, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return false
	}
	defer own.Close()
	_, err = unix.FcntlInt(own.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	return err == nil
}

// Attached lists the numbers of the devices that have a file, in no order.
func Attached() ([]int, error) {
	numbers, err := numbers()
	return slices.DeleteFunc(numbers, func(n int) bool { return !isAttached(n) }), err
}

// numbers are those of all devices.
func numbers() ([]int, error) {
	entries, err := os.ReadDir(sysfs)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if n, ok := NumberAt(e.Name()); ok {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}

// isAttached looks for a directory that is there as long as a file is attached
// (drivers/block/loop.c, loop_sysfs_init).
func isAttached(number int) bool {
	_, err := os.Lstat(filepath.Join(sysfs, fmt.Sprintf("loop%d", number), "loop"))
	return err == nil
}

// Open opens an attached device. Errors: os.ErrNotExist when it has no file, or there is no such
// device.
func Open(number int) (*Device, error) {
	// Reading is enough for all but Attach. After the close of a device that was open for writing,
	// udev would look at what was written.
	f, err := openNode(number, ReadOnly)
	if err != nil {
		return nil, err
	}
	s, err := readStatus(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Device{file: f, number: number, status: s}, nil
}

// openNode opens a device's node, and checks that it is that device's. Errors: os.ErrNotExist.
func openNode(number int, access Access) (*os.File, error) {
	f, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number),
		access.flag()|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) {
		err = fmt.Errorf("%w: %w", os.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	if err := checkNode(f, number); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkNode checks that an open file is the node of that device: /dev may have something else under
// its name. Errors: ErrNode.
func checkNode(f *os.File, number int) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if got, ok := numberOf(st.Rdev); st.Mode&unix.S_IFMT != unix.S_IFBLK || !ok || got != number {
		return fmt.Errorf("%w: %s is not loop device %d", volume.ErrNode, f.Name(), number)
	}
	return nil
}

// numberOf is the number of a loop device. Where devices have room for partitions (parameter
// max_part of the kernel's module loop), that is not the minor number.
func numberOf(device uint64) (int, bool) {
	if unix.Major(device) != major {
		return 0, false
	}
	name, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, unix.Minor(device)))
	// the device was removed, and its node is still shown somewhere
	if errors.Is(err, os.ErrNotExist) {
		return int(unix.Minor(device)), true
	}
	if err != nil {
		return 0, false
	}
	return NumberAt(name)
}

func readStatus(f *os.File) (status, error) {
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return status{}, fmt.Errorf("%s has no file: %w", f.Name(), os.ErrNotExist)
	}
	if err != nil {
		return status{}, &os.PathError{Op: "LOOP_GET_STATUS64", Path: f.Name(), Err: err}
	}
	return status{
		backing: openat.Identity{Device: info.Device, Inode: info.Inode},
		node:    info.Rdevice,
		offset:  info.Offset,
		flags:   info.Flags,
	}, nil
}

// Path is the device's node.
func (d *Device) Path() string { return d.file.Name() }

// Number is N of /dev/loopN.
func (d *Device) Number() int { return d.number }

// Backing is the identity of the device's file.
func (d *Device) Backing() openat.Identity { return d.status.backing }

// IsDirect says whether reads and writes bypass the page cache of the file's filesystem.
func (d *Device) IsDirect() bool { return d.status.flags&unix.LO_FLAGS_DIRECT_IO != 0 }

// Lifetime is what the device was attached with.
func (d *Device) Lifetime() Lifetime {
	if d.status.flags&unix.LO_FLAGS_AUTOCLEAR != 0 {
		return WhileUsed
	}
	return UntilDetached
}

// Access is what the device was attached with.
func (d *Device) Access() Access { return d.status.access() }

// Close closes the device; see Lifetime.
func (d *Device) Close() { d.file.Close() }

// Node opens the device's node with O_PATH, to be shown to a pod. The caller closes it.
func (d *Device) Node() (*os.File, error) {
	f, err := os.OpenFile(d.file.Name(), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := checkNode(f, d.number); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// SetCapacity makes the device as large as its file has become.
func (d *Device) SetCapacity() error {
	if err := unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return &os.PathError{Op: "LOOP_SET_CAPACITY", Path: d.file.Name(), Err: err}
	}
	return nil
}

// Bytes is the device's size.
func (d *Device) Bytes() (int64, error) {
	n, err := getUint64(d.file, unix.BLKGETSIZE64)
	if err != nil {
		return 0, &os.PathError{Op: "BLKGETSIZE64", Path: d.file.Name(), Err: err}
	}
	return int64(n), nil //nolint:gosec // less than a file holds
}

// IsClaimed says whether somebody has claimed the device, as a mounted filesystem has.
func (d *Device) IsClaimed() (bool, error) {
	// open(2): without O_CREAT, O_EXCL claims a block device
	f, err := os.OpenFile(d.file.Name(), os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}
