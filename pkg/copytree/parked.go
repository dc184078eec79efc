package copytree

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// parked is a pair of directories that is not open. Handles (name_to_handle_at(2)) identify the
// inodes, wherever a pod moves the directories meanwhile. To open handles needs
// CAP_DAC_READ_SEARCH, which a privileged container has.
type parked struct {
	src, dst unix.FileHandle
	// attributes are those of src, for the case that it is removed.
	attributes attributes
}

// park closes a directory to which the walk will come back. If the filesystem has no handles
// (overlayfs), the directory stays open: then the number of descriptors that a process may have
// bounds the depth.
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
	l.entries.Forget()
	l.pair.close()
	return nil
}

// unpark opens the directory again. on is an open pair on the same filesystems.
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
		src, err = dst.reopen() // any valid descriptor: src is not read again
	}
	l.src, l.dst, l.parked = src, dst, nil
	return err
}

// unparkSource opens the source again. Errors: unix.ESTALE if it has been removed.
func (l *level) unparkSource(on descriptor) (descriptor, error) {
	src, err := on.openHandle(l.parked.src)
	if err != nil {
		return -1, err
	}
	a, err := src.attributes()
	switch {
	case err == nil && a.links == 0: // removed, but its inode is still in use
		err = unix.ESTALE
	case err == nil:
		err = l.entries.Seek(int(src))
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
