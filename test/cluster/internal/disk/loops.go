package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Loop is an attached loop device.
type Loop struct {
	Device string
	// BackingFile is a path in whatever mount namespace attached it.
	BackingFile   string
	BackingDevice uint64
	BackingInode  uint64
	// BackingNode is the number of the device that the backing file is the node of; 0 for a
	// regular file.
	BackingNode uint64
	number      uint64
}

// Loops lists the machine's attached loop devices.
func Loops() ([]Loop, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var loops []Loop
	for _, file := range files {
		device := "/dev/" + strings.Split(file, "/")[3]
		backing, err := os.ReadFile(file)
		if err != nil {
			continue // detached meanwhile
		}
		loop, attached, err := inspect(device)
		if errors.Is(err, unix.EIO) {
			continue // its disk has died, and nobody knows any more which file it has
		}
		if err != nil {
			return nil, err
		}
		if attached {
			loop.BackingFile = strings.TrimSpace(string(backing))
			loops = append(loops, loop)
		}
	}
	return loops, nil
}

func inspect(device string) (loop Loop, attached bool, err error) {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return loop, false, fmt.Errorf("open %s: %w", device, err)
	}
	defer func() { _ = unix.Close(fd) }()
	info, err := unix.IoctlLoopGetStatus64(fd)
	if errors.Is(err, unix.ENXIO) {
		return loop, false, nil
	}
	if err != nil {
		return loop, false, fmt.Errorf("status of %s: %w", device, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return loop, false, fmt.Errorf("stat %s: %w", device, err)
	}
	return Loop{
		Device:        device,
		BackingDevice: info.Device,
		BackingInode:  info.Inode,
		BackingNode:   info.Rdevice,
		number:        st.Rdev,
	}, true, nil
}

// Number is the device number that files of a filesystem on this device have,
// unless it is btrfs.
func (l Loop) Number() uint64 { return l.number }

// BackedIn reports whether the backing file lies on the filesystem mounted at
// target, in a machine whose root directory the host sees as root. A btrfs
// subvolume has a device number of its own, so the file itself is compared too.
func (l Loop) BackedIn(root, target string) bool {
	var mounted, backing unix.Stat_t
	if unix.Stat(filepath.Join(root, target), &mounted) == nil && mounted.Dev == l.BackingDevice {
		return true
	}
	path := l.path()
	if !strings.HasPrefix(path, target+"/") || unix.Stat(filepath.Join(root, path), &backing) != nil {
		return false
	}
	return backing.Dev == l.BackingDevice && backing.Ino == l.BackingInode
}

// IsBackedBy reports whether the backing file has the path, and is the regular file
// that host says where the host has that path.
func (l Loop) IsBackedBy(host func(path string) string) bool {
	var backing unix.Stat_t
	if l.BackingNode != 0 || unix.Stat(host(l.path()), &backing) != nil {
		return false
	}
	return backing.Dev == l.BackingDevice && backing.Ino == l.BackingInode
}

func (l Loop) path() string { return strings.TrimSuffix(l.BackingFile, " (deleted)") }

// WithThoseAbove returns the loop devices for which isBase is true, and all that are
// attached to them or to files on them, such as what the kubelet and the driver
// attach to a raw block volume. Those above come first: they have to be detached
// first.
func WithThoseAbove(loops []Loop, isBase func(Loop) bool) (found []Loop) {
	for _, loop := range loops {
		if isBase(loop) {
			found = append(found, loop)
		}
	}
	for i := 0; i < len(found); i++ {
		base := found[i]
		for _, loop := range loops {
			isAbove := loop.BackingNode == base.number || loop.BackingDevice == base.number
			if isAbove && !slices.Contains(found, loop) {
				found = append(found, loop)
			}
		}
	}
	slices.Reverse(found)
	return found
}

// Detach detaches the device, if the same file is still attached to it.
func (l Loop) Detach() error {
	fd, err := unix.Open(l.Device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", l.Device, err)
	}
	defer func() { _ = unix.Close(fd) }()
	info, err := unix.IoctlLoopGetStatus64(fd)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of %s: %w", l.Device, err)
	}
	if info.Device != l.BackingDevice || info.Inode != l.BackingInode {
		return nil
	}
	if err := unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %s from %s: %w", l.Device, l.BackingFile, err)
	}
	return nil
}
