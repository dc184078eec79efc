package pool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dir is an open directory of a pool. Its methods take one path component that the driver itself
// chose, and follow no link. (os.Root would do the same but for renameat2(2), fsync(2) and O_PATH,
// which the commit protocol is made of.)
type dir struct{ *os.File }

const dirFlags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func openDirAt(parent int, name string) (dir, error) {
	f, err := openAt(parent, name, dirFlags, 0)
	return dir{f}, err
}

// openAt is openat(2). The caller closes the file.
func openAt(parent int, name string, flags int, mode uint32) (*os.File, error) {
	for {
		fd, err := unix.Openat(parent, name, flags|unix.O_CLOEXEC, mode)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case errors.Is(err, unix.EINTR):
			continue
		default:
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// openBelow opens an entry of an entry: nothing on the way is a link or a mount.
func (d dir) openBelow(entry, name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(d.fd(), entry+"/"+name, &unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: entry + "/" + name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (d dir) fd() int { return int(d.Fd()) }

func (d dir) openDir(name string) (dir, error) { return openDirAt(d.fd(), name) }

// mkdir makes a directory that only root can enter, and opens it.
func (d dir) mkdir(name string) (dir, error) {
	if err := unix.Mkdirat(d.fd(), name, 0o700); err != nil {
		return dir{}, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return d.openDir(name)
}

// create makes a regular file that must not exist. The caller closes it.
func (d dir) create(name string) (*os.File, error) {
	return openAt(d.fd(), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o600)
}

// writeFile makes a file with that content, on disk when it returns but for its name: sync the
// directory for that.
func (d dir) writeFile(name string, content []byte, sync func(*os.File) error) error {
	f, err := d.create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return sync(f)
}

// rename moves an entry to a name that must be free (RENAME_NOREPLACE); it is durable after a sync
// of both directories.
func (d dir) rename(name string, to dir, newName string) error {
	if err := unix.Renameat2(d.fd(), name, to.fd(), newName, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: name, New: newName, Err: err}
	}
	return nil
}

// withSuffix is a name for an entry of tmp/ or trash/ that no other is likely to have; a rename to
// a taken one fails.
func withSuffix(
	name string,
) string {
	return fmt.Sprintf("%s.%08x", name, rand.Uint32())
} //nolint:gosec // not a secret

// withoutSuffix is the name that withSuffix was given.
func withoutSuffix(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i]
	}
	return name
}
