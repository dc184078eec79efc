package disks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

const (
	slotsDir = "csi-hostpath-disks"
	// slotMode lets a test's processes that are not root reach the disk.
	slotMode  = 0o711
	mountInfo = "/proc/self/mountinfo"
	// busyFor is how long an unmount waits for processes that were killed a moment ago to be gone.
	busyFor  = 3 * time.Second
	busyPoll = 20 * time.Millisecond
)

// slot is the directory of one disk. The process that owns it holds a flock on it: a slot without
// one belongs to a process that is gone. (A process ID would say less: it is used again, and means
// nothing in another PID namespace.)
type slot struct {
	dir  string
	lock *os.File
}

func (s slot) image() string      { return filepath.Join(s.dir, "image") }
func (s slot) mountPoint() string { return filepath.Join(s.dir, "mnt") }

// reserve makes a slot, and removes those whose owners are gone.
func reserve(logf func(string, ...any)) (slot, error) {
	// Held to the end of this function: nobody sees a slot between its creation and its lock.
	slots, err := openSlots()
	if err != nil {
		return slot{}, err
	}
	defer slots.Close()
	if err := sweep(slots); err != nil {
		logf("disks: removing what a killed test has left: %v", err)
	}
	dir, err := os.MkdirTemp(slots.Name(), "disk-")
	if err != nil {
		return slot{}, err
	}
	lock, err := openLocked(dir, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return slot{}, err
	}
	s := slot{dir: dir, lock: lock}
	return s, errors.Join(os.Chmod(dir, slotMode), os.Mkdir(s.mountPoint(), slotMode))
}

// release unmounts and removes the slot. When something still uses the disk it says so, and removes
// it all the same.
func (s slot) release() error {
	defer s.lock.Close()
	err := unmountWithin(s.dir, busyFor)
	if err != nil {
		err = errors.Join(fmt.Errorf("a process still uses the disk: %w", err), detach(s.dir))
	}
	return errors.Join(err, s.remove())
}

// remove takes away only what reserve and New have made: were something still mounted here,
// RemoveAll would empty it.
func (s slot) remove() error {
	for _, path := range []string{s.mountPoint(), s.image(), s.dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// openSlots opens the directory of all slots and locks it. In a /tmp that everybody may write to, a
// directory of that name that is not root's own is refused.
func openSlots() (*os.File, error) {
	path := filepath.Join(os.TempDir(), slotsDir)
	if err := os.Mkdir(path, slotMode); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	f, err := openLocked(path, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Uid != 0 {
		return nil, errors.Join(fmt.Errorf("%s belongs to user %d, not to root: remove it", path, st.Uid),
			err, f.Close())
	}
	return f, nil
}

func openLocked(dir string, how int) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(&os.PathError{Op: "flock", Path: dir, Err: err}, f.Close())
	}
	return f, nil
}

// sweep removes the slots that nobody owns.
func sweep(slots *os.File) error {
	entries, err := os.ReadDir(slots.Name())
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		dir := filepath.Join(slots.Name(), entry.Name())
		lock, err := openLocked(dir, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
			continue // it has an owner, or had one a moment ago
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, detach(dir), slot{dir: dir}.remove(), lock.Close())
	}
	return errors.Join(errs...)
}

// unmountWithin unmounts all that detach would, but waits for what is busy.
func unmountWithin(dir string, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(busyPoll) {
		err := unmountAll(dir, 0)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// detach takes the mounts out of the tree even while they are busy; the kernel unmounts them when
// it can.
func detach(dir string) error { return unmountAll(dir, unix.MNT_DETACH) }

// unmountAll unmounts what is mounted below dir, and every other mount of the disk: the targets
// into which a driver has bound parts of it. The last mounted goes first.
func unmountAll(dir string, flags int) error {
	infos, err := mount.ParseMountInfo(mountInfo)
	if err != nil {
		return err
	}
	image := slot{dir: dir}.image()
	var errs []error
	for _, info := range slices.Backward(infos) {
		if !strings.HasPrefix(info.MountPoint, dir+"/") && backingFile(info.Source) != image {
			continue
		}
		if err := unix.Unmount(info.MountPoint, flags|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: info.MountPoint, Err: err})
		}
	}
	return errors.Join(errs...)
}
