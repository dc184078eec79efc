package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
)

// removeDepth bounds how many directories are open at once, whatever a pod has built.
const removeDepth = 64

// remover empties directories. A directory deeper than removeDepth is moved up to top, which is
// read again: what a pod has built takes no more memory however deep and wide it is, and a crash
// leaves it where the next start looks for it.
type remover struct {
	ctx     context.Context //nolint:containedctx // lives as long as one purge
	top     dir
	raised  int    // how many directories were moved there since it was read last
	buffer  []byte // a directory of any size takes no more memory
	calls   *foreground
	removed int
}

// freely is how many entries are removed without asking whether calls are under way: a busy pool's
// small volumes have to go as fast as they come.
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

// empty removes all that is in a directory of trash/ but its record. The content is a pod's: no
// link is followed, no mount is entered, depth and size do not matter, and what chattr(1) has made
// immutable goes too. When the context ends it stops between two batches; it can be called again to
// go on. What cannot be removed stays, the rest goes, and the first reason is returned.
func (r *remover) empty(d dir) error {
	for r.top = d; ; {
		r.raised = 0
		_, err := r.removeContent(d, 0)
		if r.raised == 0 {
			return err
		}
		if err := rewind(d); err != nil {
			return err
		}
	}
}

// raise moves a directory up to top.
func (r *remover) raise(at dir, name string) error {
	moved := withSuffix("deep")
	err := at.rename(name, r.top, moved)
	if errors.Is(err, unix.EPERM) {
		err = errors.Join(permit(at, name), at.rename(name, r.top, moved))
	}
	if err == nil {
		r.raised++
	}
	return err
}

// remove finds out what an entry is by unlinking it, unless the filesystem has said that it is a
// directory. (A pod may exchange it in between: then it stays for the next try.)
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
		return r.raise(at, e.name)
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
		// Some filesystems skip entries when others are removed while the directory is read: read
		// it again.
		if err := rewind(d); err != nil {
			return err
		}
	}
}

func rewind(d dir) error {
	if _, err := unix.Seek(d.fd(), 0, io.SeekStart); err != nil {
		return &os.PathError{Op: "seek", Path: d.Name(), Err: err}
	}
	return nil
}

// removeContent empties a directory; at depth 0 that is one of trash/, which keeps its record. It
// says whether anything was there, and the first reason why something still is.
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
			if depth == 0 && (e.name == record.VolumeFile || e.name == record.SnapshotFile) {
				continue
			}
			if err := r.yield(); err != nil {
				return removed, err
			}
			if err := r.remove(d, e, depth); err != nil && first == nil {
				first = err
			}
		}
	}
}

// openNoMount opens a directory unless something is mounted on it (EXDEV): what is mounted there is
// not the volume's.
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

// unlinkStubborn is unlinkat(2), tried once more without the attributes that forbid it to root.
func unlinkStubborn(at dir, name string, flags int) error {
	err := unix.Unlinkat(at.fd(), name, flags)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := permit(at, name); err != nil {
		return err
	}
	return unix.Unlinkat(at.fd(), name, flags)
}

// permit takes away from an entry and its directory the attributes that forbid it to root to remove
// or move it (ioctl_iflags(2)).
func permit(at dir, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	clearAttributes(at.fd())
	// opening anything else may have effects
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFREG || kind == unix.S_IFDIR {
		if f, err := openAt(at.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
			clearAttributes(int(f.Fd()))
			f.Close()
		}
	}
	return nil
}

// forbidding is FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h, which x/sys does not have.
const forbidding = 0x10 | 0x20

// clearAttributes takes immutable and append-only away. Its failure shows in what follows.
func clearAttributes(fd int) {
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	if flags&forbidding != 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^forbidding)
	}
}
