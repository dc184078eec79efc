package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Memory mounts a tmpfs of that many bytes at the target, which it makes if need be; the writer who fills it gets ENOSPC. What is
// written is never swapped out where the kernel can promise it (noswap, Linux 6.4). Doing it again changes nothing.
// Errors: ErrInUse when something else is at the target.
func Memory(t Target, sizeBytes int64, spec volume.Spec, options Options) error {
	at, err := t.open()
	if err != nil {
		return err
	}
	defer at.close()
	made, err := at.make(unix.S_IFDIR)
	if err != nil {
		return err
	}
	if !made {
		if done, err := at.alreadyMemory(); done || err != nil {
			return err
		}
	}
	if err := attachMemory(at, sizeBytes, spec, options); err != nil {
		if made {
			err = errors.Join(err, at.unmake())
		}
		return fmt.Errorf("mount a tmpfs at %s: %w", t, err)
	}
	return nil
}

func (p *place) alreadyMemory() (bool, error) {
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
		return false, fmt.Errorf("%w: something else is mounted at %s: unmount it", volume.ErrInUse, p.target)
	}
	return true, nil
}

func attachMemory(at *place, sizeBytes int64, spec volume.Spec, options Options) error {
	target, err := at.pin()
	if err != nil {
		return err
	}
	defer target.Close()
	data := fmt.Sprintf("size=%d,mode=%o,uid=%d,gid=%d", sizeBytes, spec.Mode, spec.UID, spec.GID)
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
