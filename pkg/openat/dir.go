package openat

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Dir is an open directory. Its methods add O_CLOEXEC to the flags that they take, and O_NOFOLLOW
// except where they say so. Whoever opened the file closes it. (os.Root would do the same but for
// renameat2(2), fsync(2) and O_PATH, which a commit protocol is made of.)
type Dir struct{ *os.File }

// OpenDir opens a directory by its path. The last component must not be a link.
func OpenDir(path string) (Dir, error) {
	f, err := openFile(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	return Dir{f}, err
}

func openFile(dir int, name string, flags int, mode uint32) (*os.File, error) {
	fd, err := OpenFD(dir, name, flags|unix.O_NOFOLLOW, mode)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// FD is the directory's descriptor, valid until the directory is closed.
func (d Dir) FD() int { return int(d.Fd()) }

// OpenFile opens an entry. It is for names that the driver chose: a name with a slash, or "..",
// leads elsewhere. The mode is that of a file made with O_CREAT. The caller closes the file.
func (d Dir) OpenFile(name string, flags int, mode uint32) (*os.File, error) {
	return openFile(d.FD(), name, flags, mode)
}

// OpenDir opens a directory in it, for reading. The name is as in OpenFile.
func (d Dir) OpenDir(name string) (Dir, error) {
	f, err := d.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	return Dir{f}, err
}

// Resolve opens a path that starts in the directory and leads only through what resolve allows. A
// link at the end of the path is opened itself with O_PATH, but InRoot follows it. The caller
// closes the file. Errors: a *os.PathError with ELOOP for a link, and with EXDEV for a mount, for a
// path that leaves the directory and for an absolute path.
func (d Dir) Resolve(path string, flags int, resolve Resolve) (*os.File, error) {
	if resolve != InRoot {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := ResolveFD(d.FD(), path, flags, resolve)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ReadFile reads as much of a file as the buffer holds, by a path as in Resolve, without an
// *os.File. It never waits: a device or pipe that would make it wait gives an error or no bytes.
// Errors: those of Resolve, and of read(2).
func (d Dir) ReadFile(path string, buffer []byte, resolve Resolve) ([]byte, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW
	fd, err := ResolveFD(d.FD(), path, flags, resolve)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for n := 0; ; {
		got, err := unix.Read(fd, buffer[n:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case got == 0:
			return buffer[:n], nil
		default:
			n += got
		}
	}
}

// OpenUnmounted opens a directory in it, for reading, unless something is mounted on that
// directory. Errors: EXDEV.
func (d Dir) OpenUnmounted(name string) (Dir, error) {
	f, err := d.Resolve(name, unix.O_RDONLY|unix.O_DIRECTORY, OnMount)
	if errors.Is(err, unix.EXDEV) {
		return Dir{}, fmt.Errorf("%q is a mount point: %w", name, unix.EXDEV)
	}
	return Dir{f}, err
}

// Mkdir makes a directory that only root can enter, and opens it. The new name is durable after a
// sync of d.
func (d Dir) Mkdir(name string) (Dir, error) {
	if err := unix.Mkdirat(d.FD(), name, 0o700); err != nil {
		return Dir{}, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return d.OpenDir(name)
}

// Create makes a regular file that only root can read, and opens it for writing. Nothing of that
// name may exist. The caller closes the file.
func (d Dir) Create(name string) (*os.File, error) {
	return d.OpenFile(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)
}

// WriteFile makes a file with that content. sync makes the content durable, (*os.File).Sync or what
// shares it among callers; the new name is durable after a sync of d.
func (d Dir) WriteFile(name string, content []byte, sync func(*os.File) error) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return sync(f)
}

// WriteTmpFile is WriteFile for a file that is renamed afterwards. What a crash has left under the
// name is replaced; after an error nothing has the name, if the filesystem lets it be removed.
func (d Dir) WriteTmpFile(name string, content []byte, sync func(*os.File) error) error {
	if err := unix.Unlinkat(d.FD(), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	err := d.WriteFile(name, content, sync)
	if err != nil {
		_ = unix.Unlinkat(d.FD(), name, 0) // else the next try does it
	}
	return err
}

// Rename gives an entry another name, also one that is taken: the new file replaces the old one.
// The change is durable after a sync of d. Errors: a *os.LinkError.
func (d Dir) Rename(name, newName string) error {
	if err := unix.Renameat(d.FD(), name, d.FD(), newName); err != nil {
		return &os.LinkError{Op: "rename", Old: name, New: newName, Err: err}
	}
	return nil
}

// RenameNoReplace moves an entry to a name that must be free (RENAME_NOREPLACE). The move is
// durable after a sync of both directories. Errors: a *os.LinkError, with EEXIST if the name is
// taken.
func (d Dir) RenameNoReplace(name string, to Dir, newName string) error {
	if err := unix.Renameat2(d.FD(), name, to.FD(), newName, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: name, New: newName, Err: err}
	}
	return nil
}

// Exchange gives two entries each other's names at once (RENAME_EXCHANGE): nobody sees a name that
// leads to nothing. The change is durable after a sync of both directories. Errors: a
// *os.LinkError, with ENOENT if one of them does not exist.
func (d Dir) Exchange(name string, with Dir, itsName string) error {
	if err := unix.Renameat2(d.FD(), name, with.FD(), itsName, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "exchange", Old: name, New: itsName, Err: err}
	}
	return nil
}
