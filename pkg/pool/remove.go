package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// removeDepth bounds how many directories are open at once, whatever a pod has built.
const removeDepth = 64

// remover removes trees, one after the other. A directory deeper than removeDepth is moved up to top and becomes pending there, so
// that a crash leaves it where the next start looks for it.
type remover struct {
	ctx     context.Context //nolint:containedctx // lives as long as one purge
	top     dir
	pending []dirent
	buffer  []byte // a directory of any size takes no more memory
	calls   *foreground
	removed int
}

// freely is how many entries are removed without asking whether calls are under way: a busy pool's small volumes have to go as fast as
// they come.
const freely = 256

func newRemover(ctx context.Context, calls *foreground) *remover {
	return &remover{ctx: ctx, buffer: make([]byte, direntBuffer), calls: calls}
}

// yield lets calls go first, when there is much to remove.
func (r *remover) yield() error {
	if r.removed++; r.removed <= freely {
		return nil
	}
	_, err := r.calls.Yield(r.ctx)
	return err
}

// removeTree removes an entry of parent and all that is below it. The content is a pod's: no link is followed, no mount is
// entered, depth and size do not matter, and what chattr(1) has made immutable goes too. When the context ends it stops
// between two batches; it can be called again to go on. What cannot be removed stays, the rest goes, and the first reason is returned.
func (r *remover) removeTree(parent dir, e dirent) error {
	r.top, r.pending = parent, append(r.pending[:0], e)
	var first error
	for len(r.pending) > 0 {
		next := r.pending[len(r.pending)-1]
		r.pending = r.pending[:len(r.pending)-1]
		if err := r.remove(parent, next, 0); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// remove finds out what an entry is by unlinking it, unless the filesystem has said that it is a directory. (A pod may exchange it in
// between: then it stays for the next try.)
func (r *remover) remove(at dir, e dirent, depth int) error {
	err := error(unix.EISDIR)
	if !e.isDir {
		err = unlinkStubborn(at, e.name, 0)
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return &os.PathError{Op: "unlink", Path: e.name, Err: err}
	case depth >= removeDepth:
		moved := withSuffix("deep")
		r.pending = append(r.pending, dirent{name: moved, isDir: true})
		return at.rename(e.name, r.top, moved)
	default:
		return r.removeDir(at, e.name, depth)
	}
}

func (r *remover) removeDir(at dir, name string, depth int) error {
	d, err := openNoMount(at, name)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		removed, err := r.removeContent(d, depth+1)
		if err != nil {
			return err
		}
		err = unlinkStubborn(at, name, unix.AT_REMOVEDIR)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.ENOTEMPTY) || !removed:
			return &os.PathError{Op: "rmdir", Path: name, Err: err}
		}
		// Some filesystems skip entries when others are removed while the directory is read: read it again.
		if _, err := unix.Seek(d.fd(), 0, io.SeekStart); err != nil {
			return &os.PathError{Op: "seek", Path: name, Err: err}
		}
	}
}

// removeContent empties a directory. It says whether anything was there, and the first reason why something still is.
func (r *remover) removeContent(d dir, depth int) (removed bool, first error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return removed, err
		}
		entries, err := d.readEntries(r.buffer)
		if err != nil || len(entries) == 0 {
			return removed, errors.Join(first, err)
		}
		removed = true
		for _, e := range entries {
			if err := r.yield(); err != nil {
				return removed, err
			}
			if err := r.remove(d, e, depth); err != nil && first == nil {
				first = err
			}
		}
	}
}

// openNoMount opens a directory unless something is mounted on it (EXDEV): what is mounted there is not the volume's.
func openNoMount(at dir, name string) (dir, error) {
	fd, err := unix.Openat2(at.fd(), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | dirFlags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.EXDEV) {
		return dir{}, fmt.Errorf("%q is a mount point: unmount it", name)
	}
	if err != nil {
		return dir{}, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return dir{os.NewFile(uintptr(fd), name)}, nil
}

// unlinkStubborn is unlinkat(2), tried once more without the attributes that forbid it to root (ioctl_iflags(2)).
func unlinkStubborn(at dir, name string, flags int) error {
	err := unix.Unlinkat(at.fd(), name, flags)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	clearAttributes(at.fd())
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFREG || kind == unix.S_IFDIR { // opening anything else may have effects
		if f, openErr := openAt(at.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); openErr == nil {
			clearAttributes(int(f.Fd()))
			f.Close()
		}
	}
	return unix.Unlinkat(at.fd(), name, flags)
}

// forbidding is FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h, which x/sys does not have.
const forbidding = 0x10 | 0x20

// clearAttributes takes immutable and append-only away. Its failure shows in the unlink that follows.
func clearAttributes(fd int) {
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	if flags&forbidding != 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^forbidding)
	}
}
