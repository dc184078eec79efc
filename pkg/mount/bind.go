// Package mount shows a volume's data at a target path and takes it away again, by system calls on
// open descriptors, and reads the mount table. (The mount.Interface of k8s.io/mount-utils takes
// paths, which a pod's owner could exchange between check and use, and starts mount(8). The tests
// use it to see what kubelet would see.)
package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Bind makes source, an O_PATH descriptor of a directory or a file, visible at the target. It makes
// the target's directory or file if nothing is there. A second call with the same arguments changes
// nothing. Errors: ErrIncompatible when the target shows the source with other options, ErrInUse
// when something else is there, ErrUnavailable when the source's filesystem is read-only and the
// options are not. Before a recursive bind mount, the caller calls CheckWritable, where it may
// wait: the source's filesystem may not answer.
func Bind(source *os.File, t Target, options Options) error {
	from, err := statx(int(source.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("stat of %s: %w", source.Name(), err)
	}
	if !options.recursive {
		if err := CheckWritable(source, options); err != nil {
			return err
		}
	}
	at, err := t.open()
	if err != nil {
		return err
	}
	defer at.close()
	created, err := at.create(from.mountPointType())
	if err != nil {
		return err
	}
	failpoint.Here("publish.target-made")
	if !created {
		if done, err := at.alreadyShows(from, options); done || err != nil {
			return err
		}
	}
	if err := attach(source, at, options); err != nil {
		if created {
			err = errors.Join(err, at.remove())
		}
		return fmt.Errorf("bind a volume at %s: %w", t, err)
	}
	failpoint.Here("publish.attached")
	return nil
}

// cloneError explains a failure of open_tree(2) with OPEN_TREE_CLONE: EINVAL means that the mount
// through which the source was opened is no longer attached anywhere.
func cloneError(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: its filesystem has been unmounted: mount it again (open_tree: %w)",
			volume.ErrUnavailable, err)
	}
	return os.NewSyscallError("open_tree", err)
}

// CheckWritable refuses a source whose filesystem is read-only, if the options are not. It asks the
// source's filesystem. Errors: ErrUnavailable.
func CheckWritable(source *os.File, options Options) error {
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

// mountFlags returns the ST_ flags of the mount through which a file was opened.
func mountFlags(f *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("statfs of %s: %w", f.Name(), err)
	}
	return st.Flags, nil
}

// alreadyShows reports whether an existing target shows the source with the options. Errors:
// ErrIncompatible, ErrInUse when something is in the way.
func (t *openTarget) alreadyShows(source state, options Options) (bool, error) {
	st, err := t.stat()
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: t.target.String(), Err: err}
	}
	if !st.mountRoot {
		return false, t.checkUnused(st, source.mountPointType())
	}
	if st.id != source.id {
		return false, fmt.Errorf("%w: something else is mounted at %s: unmount it",
			volume.ErrInUse, t.target)
	}
	err = t.checkOptions(options)
	return err == nil, err
}

// IsMountedWith reports whether anything is mounted at a target. It asks the filesystem that is
// mounted there. Errors: ErrIncompatible when the mount has other options.
func IsMountedWith(t Target, options Options) (bool, error) {
	at, err := t.open()
	if err != nil {
		return false, ignoreNotExist(err)
	}
	defer at.close()
	st, err := at.stat()
	if err != nil || !st.mountRoot {
		return false, ignoreNotExist(err)
	}
	return true, at.checkOptions(options)
}

// checkOptions compares the topmost mount at a target with the options. Errors: ErrIncompatible.
func (t *openTarget) checkOptions(options Options) error {
	top, err := t.openEntry()
	if err != nil {
		return err
	}
	defer top.Close()
	have, err := mountFlags(top)
	if err != nil {
		return err
	}
	if !options.satisfiedBy(have) {
		return fmt.Errorf("%w: the volume is mounted at %s with %s; requested: %s",
			volume.ErrIncompatible, t.target, flagNames(have), options)
	}
	return nil
}

// attach clones the source's mount, restricts the clone and then moves it onto the target: it
// appears with all its attributes at once.
func attach(source *os.File, at *openTarget, options Options) error {
	target, err := at.openEntry()
	if err != nil {
		return err
	}
	defer target.Close()
	recursive := uint(0)
	if options.recursive {
		recursive = unix.AT_RECURSIVE
	}
	clone, err := unix.OpenTree(int(source.Fd()), "",
		unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|recursive)
	if err != nil {
		return cloneError(err)
	}
	defer unix.Close(clone) // a clone that was not moved anywhere goes with its descriptor
	err = unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH|recursive, options.attr())
	if err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	err = unix.MoveMount(clone, "", int(target.Fd()), "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

// Shows reports whether a target is a mount of that file or directory.
func Shows(t Target, source *os.File) (bool, error) {
	from, err := statx(int(source.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return false, err
	}
	st, err := t.stat()
	return st.mountRoot && st.id == from.id, err
}

// Mounted reports whether anything is mounted at a target.
func Mounted(t Target) (bool, error) {
	st, err := t.stat()
	return st.mountRoot, err
}

// stat returns the state of a target; zero if it does not exist.
func (t Target) stat() (state, error) {
	at, err := t.open()
	if err != nil {
		return state{}, ignoreNotExist(err)
	}
	defer at.close()
	st, err := at.stat()
	return st, ignoreNotExist(err)
}

func ignoreNotExist(err error) error {
	if isAbsent(err) {
		return nil
	}
	return err
}
