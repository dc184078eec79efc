// Package backend says what a pool's filesystem does for a volume: make its data, hold it to its size, tell its use.
package backend

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Tag is what the filesystem knows a volume by, where it needs something: a project ID. It is kept in the record. 0 is none.
type Tag uint32

// Backend is a kind of filesystem. Its methods may be called concurrently for different volumes. A descriptor of a pool's directory
// that is passed in stays the caller's; one that is returned is the caller's to close.
type Backend interface {
	// Name is how logs and metrics call it.
	Name() string
	// Enforces says whether a volume can be held to a size.
	Enforces() bool
	// Make makes the empty data of a volume, name in dir, with that mode and owner and held to that size. The data is durable after
	// the fsync of what is returned and of dir. On failure nothing is left.
	Make(dir *os.File, name string, spec volume.Spec, bytes int64) (*os.File, Tag, error)
	// Adopt makes the filesystem agree with the record of a volume found on disk. It is called for all of them before the first Make.
	Adopt(dir *os.File, name string, tag Tag, bytes int64) error
	// Resize holds a volume to another size.
	Resize(tag Tag, bytes int64) error
	// Usage is what a volume, open with O_PATH, holds and can hold. It costs a few system calls, whatever that is.
	Usage(data *os.File, tag Tag) (volume.Usage, error)
	// TagOf reads a volume's tag from its data, for data whose record is gone.
	TagOf(dir *os.File, name string) Tag
	// Release frees a tag. Everything that had it has been removed.
	Release(tag Tag) error
}

// MakeEmpty makes the empty directory or file that pods will see, with exactly the specification's mode and owner, whatever the
// umask. Until it has both, nobody but root reaches it, because its parent is 0700. The caller closes it.
func MakeEmpty(dir *os.File, name string, spec volume.Spec) (*os.File, error) {
	f, err := openNew(dir, name, spec.Type)
	if err != nil {
		return nil, &os.PathError{Op: "make", Path: name, Err: err}
	}
	// Owner before mode: chown(2) clears setgid.
	err = unix.Fchown(int(f.Fd()), int(spec.UID), int(spec.GID))
	if err == nil {
		err = unix.Fchmod(int(f.Fd()), spec.Mode)
	}
	if err != nil {
		return nil, errors.Join(&os.PathError{Op: "set owner and mode of", Path: name, Err: err}, f.Close())
	}
	return f, nil
}

func openNew(dir *os.File, name string, t volume.Type) (*os.File, error) {
	flags := unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY
	if t != volume.FileOrCreate {
		if err := unix.Mkdirat(int(dir.Fd()), name, 0o700); err != nil {
			return nil, err
		}
		flags = unix.O_RDONLY | unix.O_DIRECTORY
	}
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
