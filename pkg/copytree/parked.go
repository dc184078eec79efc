package copytree

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// parked is a pair of directories that is not open: name_to_handle_at(2) names the very inodes,
// wherever a pod moves them meanwhile. Opening them again needs CAP_DAC_READ_SEARCH, which a
// container has that may mount.
type parked struct {
	src, dst unix.FileHandle
	// attributes are what src had, should it be gone.
	attributes attributes
}

// park closes a directory that the walk will come back to. Where the filesystem has no handles
// (overlayfs), it stays open, and depth is bounded by the number of descriptors that a process may
// have.
func (w *walk) park(l *level) error {
	if l.parked != nil {
		return nil
	}
	l.helpers.Wait()
	src, srcErr := l.src.handle()
	dst, dstErr := l.dst.handle()
	if err := errors.Join(srcErr, dstErr); errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	} else if err != nil {
		return err
	}
	a, err := l.src.attributes()
	if err != nil {
		return err
	}
	l.parked = &parked{src: src, dst: dst, attributes: a}
	l.entries.forget()
	l.pair.close()
	return nil
}

// unpark opens the directory again, on the filesystems of a pair that is open.
func (l *level) unpark(on pair) error {
	if l.parked == nil {
		return nil
	}
	dst, err := on.dst.openHandle(l.parked.dst)
	if err != nil {
		return err
	}
	src, err := l.unparkSource(on.src)
	if errors.Is(err, unix.ESTALE) {
		l.removed = &l.parked.attributes
		src, err = dst.again() // a descriptor that stays what it is
	}
	l.src, l.dst, l.parked = src, dst, nil
	return err
}

// unparkSource returns unix.ESTALE when the directory has been removed.
func (l *level) unparkSource(on descriptor) (descriptor, error) {
	src, err := on.openHandle(l.parked.src)
	if err != nil {
		return -1, err
	}
	a, err := src.attributes()
	switch {
	case err == nil && a.links == 0: // what is open below it has kept its inode
		err = unix.ESTALE
	case err == nil:
		err = l.entries.seek(src)
	}
	if err != nil {
		src.close()
	}
	return src, err
}

func (d descriptor) handle() (unix.FileHandle, error) {
	handle, _, err := unix.NameToHandleAt(int(d), "", unix.AT_EMPTY_PATH)
	return handle, os.NewSyscallError("name_to_handle_at", err)
}

func (d descriptor) openHandle(handle unix.FileHandle) (descriptor, error) {
	fd, err := unix.OpenByHandleAt(int(d), handle, readDirectory|unix.O_CLOEXEC)
	return descriptor(fd), os.NewSyscallError("open_by_handle_at", err)
}
