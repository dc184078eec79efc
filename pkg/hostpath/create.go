package hostpath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// create makes a directory and its parents, or an empty file whose parent must exist, as in-tree
// hostPath does. Something that appears in between is left for the type check.
func create(at *os.File, rel string, spec volume.Spec) error {
	parent, err := openParent(at, path.Dir(rel), spec.Type)
	if err != nil {
		return err
	}
	defer parent.Close()
	return makeIn(parent, path.Base(rel), spec)
}

// openParent opens the directory to make something in. A parent that it makes has mode 0755 and
// belongs to root, whatever the umask.
func openParent(at *os.File, rel string, t volume.Type) (*os.File, error) {
	if t == volume.FileOrCreate {
		return openBeneath(at, rel, unix.O_DIRECTORY)
	}
	dir, err := openBeneath(at, ".", unix.O_DIRECTORY)
	for part := range strings.SplitSeq(rel, "/") {
		if err != nil || part == "." {
			break
		}
		dir, err = descend(dir, part)
	}
	return dir, err
}

// descend opens a directory in another, making it where nothing is, and closes the other.
func descend(dir *os.File, name string) (*os.File, error) {
	defer dir.Close()
	below, err := openBeneath(dir, name, unix.O_DIRECTORY)
	if !errors.Is(err, unix.ENOENT) {
		return below, err
	}
	if err := makeIn(dir, name, volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755}); err != nil {
		return nil, err
	}
	return openBeneath(dir, name, unix.O_DIRECTORY)
}

// newEntry is what something has for a name until it is complete.
const newEntry = "new"

// makeIn makes an empty directory or file, durably, with exactly the specification's mode and
// owner; an entry of that name that exists or appears is no error. It is built in a directory that
// only root can enter: a pod that may write to the parent could otherwise put another directory in
// its place between mkdir(2) and fchown(2), and have that one's owner changed.
func makeIn(parent *os.File, name string, spec volume.Spec) (err error) {
	private := fmt.Sprintf(".csi-hostpath.%016x", rand.Uint64()) //nolint:gosec // not a secret
	building, err := mkdirPrivate(parent, private)
	if err != nil {
		return err
	}
	defer building.Close()
	// Not RemoveAll: if a pod has moved something here, it stays.
	defer func() { err = errors.Join(err, remove(parent, private, unix.AT_REMOVEDIR)) }()
	if err := build(building, spec); err != nil {
		return errors.Join(err, removeNew(building, spec.Type))
	}
	err = unix.Renameat2(int(building.Fd()), newEntry, int(parent.Fd()), name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return removeNew(building, spec.Type)
	}
	if err != nil {
		return errors.Join(err, removeNew(building, spec.Type))
	}
	return syncDir(parent)
}

// mkdirPrivate makes a directory and makes sure that what it has opened is nobody's but root's.
func mkdirPrivate(parent *os.File, name string) (*os.File, error) {
	if err := unix.Mkdirat(int(parent.Fd()), name, 0o700); err != nil {
		return nil, err
	}
	d, err := openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(d.Fd()), &st)
	if err == nil &&
		(st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0) { //nolint:gosec // a user ID is not negative
		err = fmt.Errorf("%w: somebody exchanged a directory that the driver was making",
			volume.ErrForbidden)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// build makes the new entry in a private directory, durable but for its final name.
func build(private *os.File, spec volume.Spec) error {
	var made *os.File
	var err error
	if spec.Type == volume.FileOrCreate {
		made, err = openat(private, newEntry, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)
	} else if err = unix.Mkdirat(int(private.Fd()), newEntry, 0o700); err == nil {
		made, err = openat(private, newEntry, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return err
	}
	defer made.Close()
	// Owner before mode: chown(2) clears setgid.
	if err := made.Chown(int(spec.UID), int(spec.GID)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(made.Fd()), spec.Mode); err != nil {
		return err
	}
	return made.Sync()
}

// removeNew takes away what build made, if it made anything: it is empty.
func removeNew(private *os.File, t volume.Type) error {
	if t == volume.FileOrCreate {
		return remove(private, newEntry, 0)
	}
	return remove(private, newEntry, unix.AT_REMOVEDIR)
}

// remove takes an empty directory, or a file, away. What is gone, or has been given content by
// somebody, is no error.
func remove(parent *os.File, name string, flags int) error {
	err := unix.Unlinkat(int(parent.Fd()), name, flags)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// syncDir makes the names in a directory durable; the descriptor may be an O_PATH one.
func syncDir(dir *os.File) error {
	d, err := openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func openat(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
