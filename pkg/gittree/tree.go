package gittree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// writeBuffer is how much of a file is written at a time, in bytes.
const writeBuffer = 256 << 10

// tree writes the entries of an archive into a new directory. It makes everything anew: a name that
// exists, and a directory that the archive has not had before, are errors.
type tree struct {
	archive *archive
	limits  gitwire.Limits
	// to is the directory that the last entry was in, and from the one that the last file of the base
	// was in. Archives list a directory's entries together.
	to, from cursor
	// masked: the process's umask takes rights from new files.
	masked  bool
	buffer  []byte
	entries int64
	bytes   int64 // the sum of the files' sizes
}

// newTree writes to the directory root. base is the directory of the base's tree, or nil.
func newTree(root openat.Dir, base *openat.Dir, limits gitwire.Limits, r io.Reader) (*tree, error) {
	t := &tree{
		archive: newArchive(r), limits: limits,
		to: newCursor(root.FD()), from: newCursor(-1),
		buffer: make([]byte, writeBuffer),
	}
	if base != nil {
		t.from = newCursor(base.FD())
	}
	var st unix.Stat_t
	if err := unix.Fstat(root.FD(), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	t.masked = st.Mode&0o7777 != modeDir
	if t.masked {
		return t, os.NewSyscallError("fchmod", unix.Fchmod(root.FD(), modeDir))
	}
	return t, nil
}

func (t *tree) close() {
	t.to.close()
	t.from.close()
}

// write writes all entries. Errors: the context's, those of archive.next and add.
func (t *tree) write(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := t.archive.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the archive after %d entries: %w", t.entries, err)
		}
		if err := t.add(ctx, e); err != nil {
			return err
		}
		failpoint.Here("git.entry")
	}
}

// add writes one entry. Errors: volume.ErrTooMany and volume.ErrNoSpace for the limits, and
// volume.ErrPrecondition for what a tree cannot have.
func (t *tree) add(ctx context.Context, e *entry) error {
	if t.entries++; t.entries > t.limits.Entries {
		return fmt.Errorf("%w: the tree has more than %d files, directories and links, which is the limit",
			volume.ErrTooMany, t.limits.Entries)
	}
	if err := t.count(e.size); err != nil {
		return err
	}
	dir, err := t.to.open(e.dir)
	if err == nil {
		err = t.make(ctx, dir, e)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errEntry):
		return refused(e.path(), err)
	case errors.Is(err, unix.EEXIST):
		return refused(e.path(), errTwice)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return refused(e.path(), errNoDir)
	default:
		return fmt.Errorf("write %s, after %d entries with %d bytes: %w", quote(e.path()), t.entries-1,
			t.bytes-e.size, err)
	}
}

// count adds the size of a file.
func (t *tree) count(size int64) error {
	if size > t.limits.TreeBytes-t.bytes {
		return fmt.Errorf("%w: the files of the tree have more than %d bytes, which is the limit: give the "+
			"volume a larger size, or ask for a part of the repository (subPath)", volume.ErrNoSpace,
			t.limits.TreeBytes)
	}
	t.bytes += size
	return nil
}

var (
	// errEntry marks what is wrong with an entry, not with the disk.
	errEntry = errors.New("an entry that cannot be")
	errTwice = errors.New("a second entry of that name: want one")
	errNoDir = errors.New("an entry whose directory is none of the tree: want the directory first")
)

// ErrBase says that the tree which pods see has lost a file: somebody, or a repair of the
// filesystem, has removed it. An archive without a base replaces the tree.
var ErrBase = fmt.Errorf("%w: a file of the base that the base does not have", errEntry)

func (t *tree) make(ctx context.Context, dir int, e *entry) error {
	switch e.kind {
	case directory:
		if err := unix.Mkdirat(dir, e.name, modeDir); err != nil {
			return err
		}
		return t.setMode(dir, e.name, modeDir)
	case link:
		return unix.Symlinkat(e.target, dir, e.name)
	case baseFile:
		return t.linkBase(ctx, dir, e)
	default:
		return t.writeFile(ctx, dir, e, t.archive.tar)
	}
}

// setMode undoes the umask.
func (t *tree) setMode(dir int, name string, mode uint32) error {
	if !t.masked {
		return nil
	}
	return unix.Fchmodat(dir, name, mode, 0)
}

// writeFile makes a file with e.size bytes of r. Whoever calls syncs.
func (t *tree) writeFile(ctx context.Context, dir int, e *entry, r io.Reader) error {
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_NOFOLLOW
	fd, err := openat.OpenFD(dir, e.name, flags, e.mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for left := e.size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := t.buffer[:min(left, writeBuffer)]
		if _, err := io.ReadFull(r, part); err != nil {
			return fmt.Errorf("read its content: %w", noEOF(err))
		}
		if err := writeAll(fd, part); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	return t.setMode(dir, e.name, e.mode)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func writeAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		p = p[max(n, 0):]
	}
	return nil
}

// linkBase gives a file of the base a name in the tree. So the two trees share its blocks, and the
// quota counts it once.
func (t *tree) linkBase(ctx context.Context, dir int, e *entry) error {
	if t.from.root < 0 {
		return fmt.Errorf("%w: a file of the base although there is none", errEntry)
	}
	fromDir, name := splitPath(e.target)
	from, err := t.from.open(fromDir)
	if err != nil {
		return absent(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return absent(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return ErrBase
	}
	if err := t.count(st.Size); err != nil {
		return err
	}
	err = unix.Linkat(from, name, dir, e.name, 0)
	if errors.Is(err, unix.EMLINK) {
		e.size, e.mode = st.Size, st.Mode&0o777
		return t.copyBase(ctx, from, name, dir, e)
	}
	return err
}

// absent is the error of a path in the base.
func absent(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return ErrBase
	}
	return err
}

// copyBase copies a file that has as many names as the filesystem allows: 65,000 on ext4.
func (t *tree) copyBase(ctx context.Context, from int, name string, dir int, e *entry) error {
	fd, err := openat.OpenFD(from, name, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return absent(err)
	}
	source := os.NewFile(uintptr(fd), name)
	defer source.Close()
	return t.writeFile(ctx, dir, e, source)
}

// cursor opens directories of a tree. It keeps the last one open, so that neighbours cost one open.
type cursor struct {
	root, fd int
	path     string
}

// newCursor works beneath root, which the caller closes.
func newCursor(root int) cursor { return cursor{root: root, fd: root} }

// open returns a descriptor of a directory, with O_PATH, that is valid until the next call. Errors:
// the bare errno.
func (c *cursor) open(path string) (int, error) {
	if path == c.path {
		return c.fd, nil
	}
	if path == "" {
		c.close()
		return c.root, nil
	}
	start, rest := c.root, path
	if below, ok := strings.CutPrefix(path, c.path+"/"); ok && c.path != "" {
		start, rest = c.fd, below
	}
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW
	fd, err := openat.ResolveFD(start, rest, flags, openat.OnMount)
	if err != nil {
		return -1, err
	}
	c.close()
	c.fd, c.path = fd, path
	return fd, nil
}

// close goes back to the root.
func (c *cursor) close() {
	if c.fd != c.root {
		unix.Close(c.fd)
	}
	c.fd, c.path = c.root, ""
}
