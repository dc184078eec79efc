// Package mount binds a volume's data on a target path and takes it off again, by system calls on
// open descriptors, and reads the mount table back. (k8s.io/mount-utils' mount.Interface takes
// paths, which a pod's owner could exchange between check and use, and starts mount(8); the tests
// ask it what kubelet, which uses it, would see.)
package mount

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// maxStacked bounds how many mounts on one target Unbind takes off; the driver itself never puts a
// second one there.
const maxStacked = 64

// API is how the kernel is asked for a bind mount.
type API int

const (
	// DescriptorAPI is open_tree(2), mount_setattr(2), move_mount(2): the mount appears with all
	// its attributes at once.
	DescriptorAPI API = iota
	// ClassicAPI is mount(2) twice, for kernels before 5.12: for a moment the mount has the
	// attributes of the pool's own. What it shows in other mount namespaces keeps those, because
	// the second call does not propagate.
	ClassicAPI
)

// Binder makes bind mounts.
type Binder struct{ api API }

// NewBinder finds out what the kernel has.
func NewBinder() Binder {
	// An invalid descriptor is EBADF where the call exists, ENOSYS or EPERM (an old seccomp
	// profile) where it does not.
	if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH,
		&unix.MountAttr{}); errors.Is(err, unix.ENOSYS) ||
		errors.Is(err, unix.EPERM) {
		return Binder{api: ClassicAPI}
	}
	return Binder{api: DescriptorAPI}
}

// IsClassic says whether the kernel has only the classic API.
func (b Binder) IsClassic() bool { return b.api == ClassicAPI }

// NewBinderWith uses that API whatever the kernel has.
func NewBinderWith(api API) Binder { return Binder{api: api} }

// MayMount says whether the process has what mount(2) and open_tree(2) ask for, CAP_SYS_ADMIN
// (capabilities(7)).
func MayMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// Bind makes source, an O_PATH descriptor of a directory or a file, visible at the target, which it
// makes if need be. Doing it again changes nothing. Errors: ErrIncompatible when the target shows
// the source with other options, ErrInUse when something else is there, ErrUnavailable when the
// source's filesystem is read-only and options are not.
func (b Binder) Bind(source *os.File, t Target, options Options) error {
	from, err := statx(int(source.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("stat of %s: %w", source.Name(), err)
	}
	if err := checkWritable(source, options); err != nil {
		return err
	}
	at, err := t.open()
	if err != nil {
		return err
	}
	defer at.close()
	made, err := at.make(from.targetKind())
	if err != nil {
		return err
	}
	failpoint.Here("publish.target-made")
	if !made {
		if done, err := b.alreadyShows(at, from, options); done || err != nil {
			return err
		}
	}
	if err := b.attach(source, at, options); err != nil {
		if made {
			err = errors.Join(err, at.unmake())
		}
		return fmt.Errorf("bind a volume at %s: %w", t, err)
	}
	failpoint.Here("publish.attached")
	return nil
}

func checkWritable(source *os.File, options Options) error {
	flags, err := mountFlags(source)
	if err != nil {
		return err
	}
	if flags&unix.ST_RDONLY != 0 && !options.ReadOnly() {
		return fmt.Errorf(
			"%w: its filesystem is mounted read-only: look into the kernel's log for disk errors, remount it",
			volume.ErrUnavailable,
		)
	}
	return nil
}

// mountFlags are the ST_ flags of the mount through which a file was opened.
func mountFlags(f *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("statfs of %s: %w", f.Name(), err)
	}
	return st.Flags, nil
}

// alreadyShows looks at a target that exists: true if the work is done, an error if something else
// is in the way.
func (b Binder) alreadyShows(p *place, source state, options Options) (bool, error) {
	st, err := p.look()
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: p.target.String(), Err: err}
	}
	if !st.mountRoot {
		return false, p.checkUnused(st, source.targetKind())
	}
	if st.id != source.id {
		return false, fmt.Errorf("%w: something else is mounted at %s: unmount it", volume.ErrInUse,
			p.target)
	}
	err = b.holdTo(options, p)
	return err == nil, err
}

// Keeps says whether a target shows what Bind has put there before, whatever that is: its place may
// have been taken by something else since. Errors: ErrIncompatible when it does with other options.
func (b Binder) Keeps(t Target, options Options) (bool, error) {
	at, err := t.open()
	if err != nil {
		return false, ignoreNotExist(err)
	}
	defer at.close()
	st, err := at.look()
	if err != nil || !st.mountRoot {
		return false, ignoreNotExist(err)
	}
	return true, b.holdTo(options, at)
}

// holdTo compares the mount at a place with the options, and completes one that a crash has left
// half made. Errors: ErrIncompatible.
func (b Binder) holdTo(options Options, p *place) error {
	have, err := p.flags()
	if err == nil && b.leftHalfMade(have) {
		have, err = p.finish(options)
	}
	if err == nil && !options.satisfiedBy(have) {
		err = fmt.Errorf("%w: the volume is mounted at %s with %s, asked for is %s",
			volume.ErrIncompatible, p.target, describe(func(a attribute) bool { return have&a.st != 0 }),
			options)
	}
	return err
}

// leftHalfMade says whether a mount of the volume is what a crash has left between the two calls of
// the classic API. All that the driver finishes is nosuid, so nothing that a pod was given is taken
// for one. (Where the pool's own mount is nosuid the first call's is, too: then a retry that wants
// more, such as read-only, is refused until the target is unpublished.)
func (b Binder) leftHalfMade(flags int64) bool {
	return b.api == ClassicAPI && flags&unix.ST_NOSUID == 0
}

// finish does what a crash came before, and returns the flags of the mount then.
func (p *place) finish(options Options) (int64, error) {
	if err := restrict(p, options); err != nil {
		return 0, err
	}
	return p.flags()
}

// flags are the ST_ flags of the topmost mount at the place.
func (p *place) flags() (int64, error) {
	shown, err := p.pin()
	if err != nil {
		return 0, err
	}
	defer shown.Close()
	return mountFlags(shown)
}

func (b Binder) attach(source *os.File, at *place, options Options) error {
	target, err := at.pin()
	if err != nil {
		return err
	}
	defer target.Close()
	if b.api == ClassicAPI {
		return attachClassic(source, target, at, options)
	}
	return attachDescriptor(source, target, options)
}

func attachDescriptor(source, target *os.File, options Options) error {
	recursive := uint(0)
	if options.recursive {
		recursive = unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(source.Fd()), "",
		unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|recursive)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(fd) // a tree that was not moved anywhere goes with its descriptor
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|recursive, options.attr()); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	err = unix.MoveMount(fd, "", int(target.Fd()), "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

func attachClassic(source, target *os.File, at *place, options Options) error {
	if options.recursive {
		if err := checkNothingBelow(source); err != nil {
			return err
		}
	}
	if err := unix.Mount(fdPath(source), fdPath(target), "", unix.MS_BIND, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	err := restrict(at, options)
	if err != nil {
		// never leave a mount that is weaker than was asked for
		err = errors.Join(err, at.unmountTop())
	}
	return err
}

// checkNothingBelow refuses a source with mounts below it: mount(2) can neither restrict them nor,
// in one step, keep them out of the source's peer group. Errors: ErrUnavailable.
func checkNothingBelow(source *os.File) error {
	mounts, err := Table()
	if err != nil {
		return err
	}
	shown, err := Shown(mounts, source)
	if err == nil && len(shown) > 1 {
		err = fmt.Errorf(
			"%w: something is mounted below it, and showing that safely needs mount_setattr(2), Linux 5.12 or newer",
			volume.ErrUnavailable,
		)
	}
	return err
}

// restrict sets the attributes of the mount at a place; a bind by mount(2) ignores them (mount(2),
// "Creating a bind mount").
func restrict(at *place, options Options) error {
	shown, err := at.pin() // not the descriptor from before the mount: that one is under it
	if err != nil {
		return err
	}
	defer shown.Close()
	have, err := mountFlags(shown)
	if err != nil {
		return err
	}
	return os.NewSyscallError("mount",
		unix.Mount("", fdPath(shown), "", options.remountFlags(have), ""))
}

// Shows says whether the target is a mount of that file or directory.
func Shows(t Target, source *os.File) (bool, error) {
	from, err := statx(int(source.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return false, err
	}
	st, err := lookAt(t)
	return st.mountRoot && st.id == from.id, err
}

// Mounted says whether anything is mounted at the target.
func Mounted(t Target) (bool, error) {
	st, err := lookAt(t)
	return st.mountRoot, err
}

// lookAt is the state of a target; zero when there is none.
func lookAt(t Target) (state, error) {
	at, err := t.open()
	if err != nil {
		return state{}, ignoreNotExist(err)
	}
	defer at.close()
	st, err := at.look()
	return st, ignoreNotExist(err)
}

func ignoreNotExist(err error) error {
	if isAbsent(err) {
		return nil
	}
	return err
}

// Unbind takes every mount off the target and removes the directory or file that Bind made there. A
// target that is gone is no error. It removes nothing that has content. Errors: ErrInUse.
func Unbind(t Target) error {
	at, err := t.open()
	if err != nil {
		return ignoreNotExist(err)
	}
	defer at.close()
	if err := at.unmountAll(); err != nil {
		return err
	}
	err = at.unmake()
	failpoint.Here("unpublish.target-removed")
	return err
}

// Unmount takes every mount off the target, and leaves the directory: it is the caller's. A target
// that is gone is no error. Errors: ErrInUse.
func Unmount(t Target) error {
	at, err := t.open()
	if err != nil {
		return ignoreNotExist(err)
	}
	defer at.close()
	return at.unmountAll()
}

func (p *place) unmountAll() error {
	for range maxStacked {
		st, err := p.look()
		if errors.Is(err, unix.ENOENT) || err == nil && !st.mountRoot {
			return nil
		}
		// An error other than ENOENT is what a dead disk answers: whatever is mounted there has to
		// go.
		if err := p.unmountTop(); err != nil {
			return err
		}
		failpoint.Here("unmounted")
	}
	return fmt.Errorf("%w: more than %d mounts are stacked on %s", volume.ErrInUse, maxStacked,
		p.target)
}

const (
	// Whoever looks at a mount point, if only for a moment, makes it busy: a monitoring agent, or
	// another pool that is just being opened.
	busyTries = 5
	busyPause = 10 * time.Millisecond
)

// unmountTop takes the topmost mount off. The parent is named by its descriptor, the last component
// is not followed.
func (p *place) unmountTop() error {
	name := descriptorPath(p.parent) + "/" + p.name
	err := unix.Unmount(name, unix.UMOUNT_NOFOLLOW)
	for try := 1; errors.Is(err, unix.EBUSY) && try < busyTries; try++ {
		if p.hasMountsBelow() {
			// With what is mounted below it, as one: their paths lead through the volume, which is
			// a pod's, and cannot be walked.
			err = unix.Unmount(name, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
			break
		}
		time.Sleep(busyPause)
		err = unix.Unmount(name, unix.UMOUNT_NOFOLLOW)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: a process of the host still uses the mount at %s: see fuser -m",
			volume.ErrInUse, p.target)
	default:
		return &os.PathError{Op: "unmount", Path: p.target.String(), Err: err}
	}
}

// hasMountsBelow reads the mount table: for the rare target that cannot be unmounted. If it cannot
// be read there are none. The table has the resolved path, in which the kubelet's directory may be
// another one.
func (p *place) hasMountsBelow() bool {
	parent, err := os.Readlink(descriptorPath(p.parent))
	if err != nil {
		return false
	}
	mounts, err := Table()
	return err == nil && slices.ContainsFunc(mounts, func(m Mount) bool {
		rest, isBelow := below(path.Join(parent, p.name), m.Point)
		return isBelow && rest != ""
	})
}
