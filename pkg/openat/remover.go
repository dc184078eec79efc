package openat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// removeDepth bounds how many directories a Remover has open at once.
const removeDepth = 64

// Remover removes directory trees that somebody hostile may be changing. It follows no link, enters
// no mount, and clears the attributes immutable and append-only (chattr(1)). Its memory and its
// open files do not grow with the tree: a directory deeper than removeDepth is moved up to the top
// of the tree, and the top is read again. So a crash leaves what it moved where the next removal of
// the same tree finds it. A Remover is for one goroutine.
type Remover struct {
	yield  func(context.Context) error
	buffer []byte
	// The tree that is being removed:
	top     Dir
	movedUp int // how many directories were moved to top since it was read last
}

// NewRemover returns a remover that calls yield before each entry. yield may wait, to let other
// work go first. An error of yield ends the removal. yield may be nil.
func NewRemover(yield func(context.Context) error) *Remover {
	if yield == nil {
		yield = func(context.Context) error { return nil }
	}
	return &Remover{yield: yield, buffer: make([]byte, EntriesBuffer)}
}

// Empty removes all that a directory holds, except the entries in keep, at the top. An entry that
// cannot be removed stays, the others go, and the first error is returned. Empty stops between two
// reads when the context ends; the next call goes on. It moves the position of d. The removal is
// not durable when it returns.
func (r *Remover) Empty(ctx context.Context, d Dir, keep ...string) error {
	for r.top = d; ; {
		if err := rewind(d); err != nil {
			return err
		}
		r.movedUp = 0
		if _, err := r.removeContent(ctx, d, 0, keep); r.movedUp == 0 {
			return err
		}
	}
}

// Remove removes an entry of a directory: a file of any type, or a directory and all that it holds.
// An entry that does not exist is no error. Otherwise it does as Empty.
func (r *Remover) Remove(ctx context.Context, at Dir, name string) error {
	err := unlinkForced(at, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	d, err := at.OpenUnmounted(name)
	if err != nil {
		return err
	}
	defer d.Close()
	r.top = d
	return r.removeDir(ctx, at, name, d, 0)
}

// moveUp moves a directory to top.
func (r *Remover) moveUp(at Dir, name string) error {
	moved := fmt.Sprintf("deep.%08x", rand.Uint32()) //nolint:gosec // not a secret
	err := at.RenameNoReplace(name, r.top, moved)
	if errors.Is(err, unix.EPERM) {
		err = errors.Join(permit(at, name), at.RenameNoReplace(name, r.top, moved))
	}
	if err == nil {
		r.movedUp++
	}
	return err
}

// remove finds out what an entry is by unlinking it, unless the filesystem has said that it is a
// directory. (If a pod exchanges the entry in between, it stays for the next try.)
func (r *Remover) remove(ctx context.Context, at Dir, e Entry, depth int) error {
	err := error(unix.EISDIR)
	if e.Type != unix.DT_DIR {
		err = unlinkForced(at, e.Name, 0)
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return &os.PathError{Op: "unlink", Path: e.Name, Err: err}
	case depth >= removeDepth:
		return r.moveUp(at, e.Name)
	}
	d, err := at.OpenUnmounted(e.Name)
	if err != nil {
		return err
	}
	defer d.Close()
	return r.removeDir(ctx, at, e.Name, d, depth+1)
}

// removeDir empties the directory d and removes its name from the directory at.
func (r *Remover) removeDir(ctx context.Context, at Dir, name string, d Dir, depth int) error {
	for {
		removed, err := r.removeContent(ctx, d, depth, nil)
		if err != nil {
			return err
		}
		err = unlinkForced(at, name, unix.AT_REMOVEDIR)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.ENOTEMPTY) || !removed:
			return &os.PathError{Op: "rmdir", Path: name, Err: err}
		}
		// Some filesystems skip entries when others are removed while the directory is read, and
		// moveUp adds entries to top: read it again.
		if err := rewind(d); err != nil {
			return err
		}
	}
}

func rewind(d Dir) error {
	if _, err := unix.Seek(d.FD(), 0, io.SeekStart); err != nil {
		return &os.PathError{Op: "seek", Path: d.Name(), Err: err}
	}
	return nil
}

// removeContent removes the entries of a directory that are not to be kept. It returns whether
// there were any, and the first error.
func (r *Remover) removeContent(
	ctx context.Context, d Dir, depth int, keep []string,
) (removed bool, first error) {
	for {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		entries, err := d.ReadEntries(r.buffer)
		if err != nil || len(entries) == 0 {
			return removed, errors.Join(first, err)
		}
		removed = true
		for _, e := range entries {
			if slices.Contains(keep, e.Name) {
				continue
			}
			if err := r.yield(ctx); err != nil {
				return removed, err
			}
			if err := r.remove(ctx, d, e, depth); err != nil && first == nil {
				first = err
			}
		}
	}
}

// unlinkForced is unlinkat(2), tried once more without the attributes that forbid it to root.
func unlinkForced(at Dir, name string, flags int) error {
	err := unix.Unlinkat(at.FD(), name, flags)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := permit(at, name); err != nil {
		return err
	}
	return unix.Unlinkat(at.FD(), name, flags)
}

// permit clears the attributes of an entry and of its directory that forbid root to remove or to
// move the entry (ioctl_iflags(2)).
func permit(at Dir, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at.FD(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	ClearAttributes(at.File)
	// Opening anything else may have effects.
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFREG || kind == unix.S_IFDIR {
		if f, err := at.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			ClearAttributes(f)
			f.Close()
		}
	}
	return nil
}

// forbidding is FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h, which x/sys does not have.
const forbidding = 0x10 | 0x20

// ClearAttributes clears the attributes immutable and append-only of an open file. It returns no
// error: if it fails, the caller's next operation fails with a clearer error.
func ClearAttributes(f *os.File) {
	fd := int(f.Fd())
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	if flags&forbidding != 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^forbidding)
	}
}
