package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// A tmpfs counts files apart from bytes, because an empty file also costs the kernel memory. One
	// file for each page is allowed, and some more for small tmpfs.
	bytesPerInode = 4096
	spareInodes   = 1024
)

// Memory mounts a tmpfs of that many bytes, rounded up to pages, at the target. It makes the
// target's directory if nothing is there. A writer who fills the tmpfs gets ENOSPC. Since Linux 6.4
// its content is never swapped out (noswap). A second call with the same arguments changes nothing.
// Errors: ErrOutOfRange for more than the node's memory, ErrIncompatible when a tmpfs of another
// size or with other options is at the target, ErrInUse when something else is there.
func Memory(t Target, sizeBytes int64, spec volume.Spec, options Options) error {
	if err := checkFitsMemory(sizeBytes); err != nil {
		return err
	}
	at, err := t.open()
	if err != nil {
		return err
	}
	defer at.close()
	created, err := at.create(unix.S_IFDIR)
	if err != nil {
		return err
	}
	failpoint.Here("publish.target-made")
	if !created {
		if done, err := at.alreadyMemory(sizeBytes, options); done || err != nil {
			return err
		}
	}
	if err := attachMemory(at, sizeBytes, spec, options); err != nil {
		if created {
			err = errors.Join(err, at.remove())
		}
		return fmt.Errorf("mount a tmpfs at %s: %w", t, err)
	}
	failpoint.Here("publish.attached")
	return nil
}

func checkFitsMemory(sizeBytes int64) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return os.NewSyscallError("sysinfo", err)
	}
	if total := Bytes(info.Totalram, int64(info.Unit)); sizeBytes > total {
		return fmt.Errorf("%w: requested: %d bytes of memory; the node has %d", volume.ErrOutOfRange,
			sizeBytes, total)
	}
	return nil
}

// alreadyMemory reports whether an existing target is such a tmpfs. Errors: ErrIncompatible,
// ErrInUse.
func (t *openTarget) alreadyMemory(sizeBytes int64, options Options) (bool, error) {
	st, err := t.stat()
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: t.target.String(), Err: err}
	}
	if !st.mountRoot {
		return false, t.checkUnused(st, unix.S_IFDIR)
	}
	top, err := t.openEntry()
	if err != nil {
		return false, err
	}
	defer top.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(top.Fd()), &fs); err != nil {
		return false, &os.PathError{Op: "statfs", Path: t.target.String(), Err: err}
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return false, fmt.Errorf("%w: something else is mounted at %s: unmount it", volume.ErrInUse,
			t.target)
	}
	if have := Bytes(fs.Blocks, fs.Bsize); have < sizeBytes || have-sizeBytes >= fs.Bsize ||
		!options.satisfiedBy(fs.Flags) {
		return false, fmt.Errorf(
			"%w: a tmpfs of %d bytes is mounted at %s with %s; requested: %d bytes with %s",
			volume.ErrIncompatible, have, t.target, flagNames(fs.Flags), sizeBytes, options)
	}
	return true, nil
}

func attachMemory(at *openTarget, sizeBytes int64, spec volume.Spec, options Options) error {
	target, err := at.openEntry()
	if err != nil {
		return err
	}
	defer target.Close()
	data := fmt.Sprintf("size=%d,nr_inodes=%d,mode=%o,uid=%d,gid=%d",
		sizeBytes, sizeBytes/bytesPerInode+spareInodes, spec.Mode, spec.UID, spec.GID)
	// Unlike a bind mount, a new filesystem takes all attributes with mount(2).
	err = unix.Mount("tmpfs", openat.Path(target), "tmpfs", options.mountFlags(), data+",noswap")
	if errors.Is(err, unix.EINVAL) { // noswap is unknown before Linux 6.4
		err = unix.Mount("tmpfs", openat.Path(target), "tmpfs", options.mountFlags(), data)
	}
	return os.NewSyscallError("mount", err)
}

// mountFlags returns the argument of mount(2) for a new filesystem.
func (o Options) mountFlags() uintptr {
	var flags uintptr
	for _, a := range attributes {
		if !a.isAtime && o.attributes&a.attr != 0 || a.isAtime && o.setAtime && o.atime == a.attr {
			flags |= a.ms
		}
	}
	return flags
}
