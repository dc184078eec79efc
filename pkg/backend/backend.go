// Package backend says what a pool's filesystem does for a volume: make its data, hold it to its
// size, tell its use.
package backend

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The entry that holds a volume's data, in the volume's directory. Where a filesystem holds only
// directories to a size, the data of a file volume is in a directory of its own that no pod sees:
// Holder/Data.
const (
	Data   = "data"
	Holder = "holder"
)

// ErrPending says that the filesystem has not finished yet: ask again.
var ErrPending = errors.New("the filesystem is still removing it")

// Backend is a kind of filesystem. Its methods may be called concurrently for different volumes. A
// volume is passed in as its open directory, which stays the caller's; what is returned is the
// caller's to close.
type Backend interface {
	// Name is how logs and metrics call it.
	Name() string
	// Enforces says whether a volume is held to its size.
	Enforces() bool
	// LimitsInodes says whether a volume can be held to a number of files (volume.Spec.Inodes).
	LimitsInodes() bool
	// Make makes the empty data of a volume, with exactly that mode and owner and held to that
	// size. All of it is metadata, durable after the fsync of what is returned and of dir. On
	// failure nothing is left. Errors: ErrNoSpace.
	Make(dir *os.File, spec volume.Spec, bytes int64) (*os.File, volume.QuotaID, error)
	// Adopt makes the filesystem agree with the record of a volume found on disk, and says whether
	// it did not. It is called for all of them, and Hold for what is deleted, before the first
	// Make. Errors: why the volume is not held to its size; ErrCorrupt when the quota ID is another
	// volume's.
	Adopt(
		dir *os.File, quotaID volume.QuotaID, spec volume.Spec, bytes int64,
	) (repaired bool, err error)
	// Hold keeps the quota ID of a volume that is deleted, or cannot be adopted, from being given out.
	// The quota ID is the record's, 0 where that is gone. What it returns is to be released.
	Hold(dir *os.File, quotaID volume.QuotaID) volume.QuotaID
	// Resize holds a volume to its specification and another size, durably. Errors: ErrNoSpace.
	Resize(dir *os.File, quotaID volume.QuotaID, spec volume.Spec, bytes int64) error
	// Usage is what a volume, its data open with O_PATH, holds and can hold. It costs a few system
	// calls, whatever that is.
	Usage(data *os.File, quotaID volume.QuotaID) (volume.Usage, error)
	// Discard removes of a volume's data what the filesystem removes at once. The rest is the
	// caller's.
	Discard(dir *os.File) error
	// Release frees the quota ID of a volume whose data has been removed. It may be called again.
	// Errors: ErrPending.
	Release(quotaID volume.QuotaID) error
}

// Counter is a backend that knows how much of the disk its volumes have.
type Counter interface {
	// Allocated is how much of the disk a volume's data, open with O_PATH, has. It costs a few
	// system calls. Errors: errors.ErrUnsupported for a volume that is not counted.
	Allocated(data *os.File, quotaID volume.QuotaID) (int64, error)
}

// DataPaths are where a volume's data can be, relative to its directory.
func DataPaths() []string { return []string{Data, Holder + "/" + Data} }

// OpenData opens a volume's data, wherever it is in its directory. No link is followed and no mount
// is crossed. The caller closes the file. Errors: os.ErrNotExist.
func OpenData(dir *os.File, flags int) (*os.File, error) {
	var first error
	for _, path := range DataPaths() {
		f, err := openat.Dir{File: dir}.Resolve(path, flags, openat.OnMount)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return nil, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// MakeEmpty makes the empty directory or file that pods will see, with exactly the specification's
// mode and owner, whatever the umask. Until it has both, nobody but root reaches it, because its
// parent is 0700. The caller closes it.
func MakeEmpty(dir *os.File, spec volume.Spec) (*os.File, error) {
	f, err := openNew(openat.Dir{File: dir}, spec.Type)
	if err != nil {
		return nil, err
	}
	if err := SetOwner(f, spec); err != nil {
		return nil, errors.Join(err, f.Close(), RemoveEmpty(dir, spec.Type))
	}
	return f, nil
}

// RemoveEmpty undoes MakeEmpty.
func RemoveEmpty(dir *os.File, t volume.Type) error {
	flags := unix.AT_REMOVEDIR
	if t == volume.FileOrCreate {
		flags = 0
	}
	if err := unix.Unlinkat(int(dir.Fd()), Data, flags); err != nil {
		return &os.PathError{Op: "remove", Path: Data, Err: err}
	}
	return nil
}

// SetOwner gives data its owner and mode.
func SetOwner(f *os.File, spec volume.Spec) error {
	// Owner before mode: chown(2) clears setgid.
	err := unix.Fchown(int(f.Fd()), int(spec.UID), int(spec.GID))
	if err == nil {
		err = unix.Fchmod(int(f.Fd()), spec.Mode)
	}
	if err != nil {
		return fmt.Errorf("set owner and mode of %s: %w", f.Name(), err)
	}
	return nil
}

func openNew(dir openat.Dir, t volume.Type) (*os.File, error) {
	if t == volume.FileOrCreate {
		return dir.Create(Data)
	}
	made, err := dir.Mkdir(Data)
	return made.File, err
}
