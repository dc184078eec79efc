package hostpath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// create makes a directory and its parents, or an empty file whose parent must exist, as in-tree
// hostPath does. If something else appears at the path meanwhile, create leaves it, and the check
// of the type finds it.
func create(at openat.Dir, rel string, spec volume.Spec) error {
	parent, err := openParent(at, path.Dir(rel), spec.Type)
	if err != nil {
		return err
	}
	defer parent.Close()
	return makeIn(parent, path.Base(rel), spec)
}

// openParent opens the directory in which to make something. Parents that it makes have mode 0755
// and belong to root, whatever the umask.
func openParent(at openat.Dir, rel string, t volume.Type) (openat.Dir, error) {
	if t == volume.FileOrCreate {
		return openDir(at, rel)
	}
	dir, err := openDir(at, ".")
	for part := range strings.SplitSeq(rel, "/") {
		if err != nil || part == "." {
			break
		}
		dir, err = descend(dir, part)
	}
	return dir, err
}

// descend opens a directory in another one, which it closes. It makes the directory if nothing has
// that name.
func descend(dir openat.Dir, name string) (openat.Dir, error) {
	defer dir.Close()
	below, err := openDir(dir, name)
	if !errors.Is(err, unix.ENOENT) {
		return below, err
	}
	if err := makeIn(dir, name, volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755}); err != nil {
		return openat.Dir{}, err
	}
	return openDir(dir, name)
}

// openDir opens a directory with O_PATH.
func openDir(at openat.Dir, rel string) (openat.Dir, error) {
	f, err := at.Resolve(rel, unix.O_PATH|unix.O_DIRECTORY, openat.Beneath)
	return openat.Dir{File: f}, err
}

// newEntry is the name of what is being made until it is complete.
const newEntry = "new"

// makeIn makes an empty directory or file, durably, with exactly the specification's mode and
// owner. If the name exists already, or appears meanwhile, makeIn changes nothing and returns no
// error. It builds in a directory that only root can enter: a pod that may write to the parent
// could otherwise exchange the new directory for another one between mkdir(2) and fchown(2), and
// the driver would change the owner of that one.
func makeIn(parent openat.Dir, name string, spec volume.Spec) (err error) {
	privateName := fmt.Sprintf(".csi-hostpath.%016x", rand.Uint64()) //nolint:gosec // not a secret
	private, err := mkdirPrivate(parent, privateName)
	if err != nil {
		return err
	}
	defer private.Close()
	// Not RemoveAll: if a pod has moved something here, it stays.
	defer func() { err = errors.Join(err, removeEmpty(parent, privateName, unix.AT_REMOVEDIR)) }()
	if err := build(private, spec); err != nil {
		return errors.Join(err, removeNew(private, spec.Type))
	}
	err = private.RenameNoReplace(newEntry, parent, name)
	if errors.Is(err, unix.EEXIST) {
		return removeNew(private, spec.Type)
	}
	if err != nil {
		return errors.Join(err, removeNew(private, spec.Type))
	}
	return syncDir(parent)
}

// mkdirPrivate makes a directory, opens it, and verifies that what it has opened belongs to root
// alone.
func mkdirPrivate(parent openat.Dir, name string) (openat.Dir, error) {
	d, err := parent.Mkdir(name)
	if err != nil {
		return openat.Dir{}, err
	}
	var st unix.Stat_t
	err = unix.Fstat(d.FD(), &st)
	owner := uint32(os.Geteuid()) //nolint:gosec // a user ID is not negative
	if err == nil && (st.Uid != owner || st.Mode&0o077 != 0) {
		err = fmt.Errorf("%w: somebody exchanged a directory that the driver was making",
			volume.ErrForbidden)
	}
	if err == nil {
		err = openat.RemoveACLs(d.File) // what is made in it would inherit the default ACL
	}
	if err != nil {
		return openat.Dir{}, errors.Join(err, d.Close())
	}
	return d, nil
}

// build makes the new entry in a private directory. All but its final name is durable when it
// returns.
func build(private openat.Dir, spec volume.Spec) error {
	made, err := makeEntry(private, spec.Type)
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

func makeEntry(private openat.Dir, t volume.Type) (*os.File, error) {
	if t == volume.FileOrCreate {
		return private.Create(newEntry)
	}
	d, err := private.Mkdir(newEntry)
	return d.File, err
}

// removeNew removes what build has made, if anything: it is empty.
func removeNew(private openat.Dir, t volume.Type) error {
	if t == volume.FileOrCreate {
		return removeEmpty(private, newEntry, 0)
	}
	return removeEmpty(private, newEntry, unix.AT_REMOVEDIR)
}

// removeEmpty removes a file or an empty directory. It is no error if the entry is gone, or if
// somebody has put something into it: then it stays.
func removeEmpty(parent openat.Dir, name string, flags int) error {
	err := unix.Unlinkat(parent.FD(), name, flags)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// syncDir makes the names in a directory durable; d may be an O_PATH descriptor.
func syncDir(d openat.Dir) error {
	readable, err := d.OpenDir(".")
	if err != nil {
		return err
	}
	defer readable.Close()
	return readable.Sync()
}
