package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// A tmpfs counts files apart from bytes, and an empty one costs the kernel memory all the same:
	// there is one for each page, and some for those that are smaller.
	bytesPerInode = 4096
	spareInodes   = 1024
)

// Memory mounts a tmpfs of that many bytes, rounded up to pages, at the target, which it makes if
// need be; the writer who fills it gets ENOSPC. What is written is never swapped out where the
// kernel can promise it (noswap, Linux 6.4). Doing it again changes nothing. Errors: ErrOutOfRange
// for more than the node's memory, ErrIncompatible when a tmpfs of another size or with other
// options is at the target, ErrInUse when something else is.
func Memory(t Target, sizeBytes int64, spec volume.Spec, options Options) error {
	if err := checkFitsMemory(sizeBytes); err != nil {
		return err
	}
	at, err := t.open()
	if err != nil {
		return err
	}
	defer at.close()
	made, err := at.make(unix.S_IFDIR)
	if err != nil {
		return err
	}
	failpoint.Here("publish.target-made")
	if !made {
		if done, err := at.alreadyMemory(sizeBytes, options); done || err != nil {
			return err
		}
	}
	if err := attachMemory(at, sizeBytes, spec, options); err != nil {
		if made {
			err = errors.Join(err, at.unmake())
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
		return fmt.Errorf("%w: %d bytes of memory are asked for, the node has %d", volume.ErrOutOfRange,
			sizeBytes, total)
	}
	return nil
}

func (p *place) alreadyMemory(sizeBytes int64, options Options) (bool, error) {
	st, err := p.look()
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: p.target.String(), Err: err}
	}
	if !st.mountRoot {
		return false, p.checkUnused(st, unix.S_IFDIR)
	}
	shown, err := p.pin()
	if err != nil {
		return false, err
	}
	defer shown.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(shown.Fd()), &fs); err != nil {
		return false, &os.PathError{Op: "statfs", Path: p.target.String(), Err: err}
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return false, fmt.Errorf("%w: something else is mounted at %s: unmount it", volume.ErrInUse,
			p.target)
	}
	if have := Bytes(fs.Blocks, fs.Bsize); have < sizeBytes || have-sizeBytes >= fs.Bsize ||
		!options.satisfiedBy(fs.Flags) {
		return false, fmt.Errorf(
			"%w: a tmpfs of %d bytes is mounted at %s with %s, asked for are %d bytes with %s",
			volume.ErrIncompatible,
			have,
			p.target,
			describe(func(a attribute) bool { return fs.Flags&a.st != 0 }),
			sizeBytes,
			options,
		)
	}
	return true, nil
}

func attachMemory(at *place, sizeBytes int64, spec volume.Spec, options Options) error {
	target, err := at.pin()
	if err != nil {
		return err
	}
	defer target.Close()
	data := fmt.Sprintf("size=%d,nr_inodes=%d,mode=%o,uid=%d,gid=%d",
		sizeBytes, sizeBytes/bytesPerInode+spareInodes, spec.Mode, spec.UID, spec.GID)
	// A new filesystem takes its mount's attributes with mount(2), unlike a bind.
	err = unix.Mount("tmpfs", fdPath(target), "tmpfs", options.mountFlags(), data+",noswap")
	if errors.Is(err, unix.EINVAL) { // before Linux 6.4
		err = unix.Mount("tmpfs", fdPath(target), "tmpfs", options.mountFlags(), data)
	}
	return os.NewSyscallError("mount", err)
}

// mountFlags is the argument of mount(2) for a new filesystem.
func (o Options) mountFlags() uintptr {
	var flags uintptr
	for _, a := range attributes {
		if !a.isAtime && o.attributes&a.attr != 0 || a.isAtime && o.setAtime && o.atime == a.attr {
			flags |= a.ms
		}
	}
	return flags
}
