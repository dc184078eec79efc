// Package backend is the interface between a pool and its filesystem: make the data of volumes,
// enforce their sizes, report their usage.
package backend

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The entry of a volume's directory that is the volume's data. If the filesystem can limit only
// directories, the data of a file volume is in a directory of its own that no pod sees:
// Holder/Data.
const (
	Data   = "data"
	Holder = "holder"
)

// ErrPending says that the filesystem still works in the background: call again later.
var ErrPending = errors.New("the filesystem is still removing it")

// Backend is a kind of filesystem. Methods may be called concurrently for different volumes. A
// volume is passed as its open directory, which the caller closes. The caller also closes the files
// that methods return.
type Backend interface {
	// Name returns the name for logs and metrics.
	Name() string
	// Enforces reports whether sizes are enforced.
	Enforces() bool
	// LimitsInodes reports whether the number of files can be limited (volume.Spec.Inodes).
	LimitsInodes() bool
	// Make makes the empty data of a volume, with exactly that mode and owner, and limits it to that
	// size. All of it is metadata, durable after an fsync of the returned file and of dir. If Make
	// fails, it leaves nothing. Errors: ErrNoSpace.
	Make(dir openat.Dir, spec volume.Spec, bytes int64) (*os.File, volume.QuotaID, error)
	// Adopt makes the filesystem agree with the record of a volume that was found on disk, and returns
	// whether it had to change anything. At a start, Adopt is called for each volume, and
	// ReserveQuotaID for all deleted data, before the first Make. An error says why the size is not
	// enforced; ErrCorrupt: the quota ID belongs to another volume.
	Adopt(
		dir openat.Dir, quotaID volume.QuotaID, spec volume.Spec, bytes int64,
	) (repaired bool, err error)
	// ReserveQuotaID prevents that the quota ID of deleted data, or of a volume that cannot be
	// adopted, is given to a new volume. quotaID is the record's; 0 if there is no record, and then
	// the backend asks the data. It returns the ID that is to be released; 0 if there is none, or if
	// another volume has it.
	ReserveQuotaID(dir openat.Dir, quotaID volume.QuotaID) volume.QuotaID
	// Resize limits a volume to another size, and to the inodes of its specification, durably. Errors:
	// ErrNoSpace.
	Resize(dir openat.Dir, quotaID volume.QuotaID, spec volume.Spec, bytes int64) error
	// Usage returns how much a volume has and can have. data is an O_PATH descriptor. It costs a few
	// system calls, whatever the volume's content.
	Usage(data *os.File, quotaID volume.QuotaID) (volume.Usage, error)
	// Discard removes the part of a volume's data that the filesystem can remove at once. The caller
	// removes the rest.
	Discard(dir openat.Dir) error
	// Release frees the quota ID of a volume whose data was removed. It may be called again.
	// Errors: ErrPending.
	Release(quotaID volume.QuotaID) error
}

// Counter is a backend that knows how much of the disk its volumes occupy.
type Counter interface {
	// Allocated returns how many bytes of the disk a volume occupies. data is an O_PATH descriptor. It
	// costs a few system calls. Errors: errors.ErrUnsupported for a volume that is not counted.
	Allocated(data *os.File, quotaID volume.QuotaID) (int64, error)
}

// Retirer is a backend under whose quota IDs files of others may count.
type Retirer interface {
	// Retire is called when Release still returns ErrPending after a long time. It forbids that more
	// is written under the ID, and returns how many bytes count for it. The ID stays reserved until
	// Release returns nil, and Retire may be called again.
	Retire(quotaID volume.QuotaID) (leftBytes int64, err error)
}

// Auditor is a backend under whose quota IDs files of others may count.
type Auditor interface {
	// Overcharge finds out what counts for a volume and is none of its files. data is open for
	// reading, and stays the caller's. It looks at each file of the volume, and calls proceed before
	// each, whose error ends it. What pods change meanwhile makes the result inexact. Errors:
	// errors.ErrUnsupported for a volume without a quota ID.
	Overcharge(
		data *os.File, quotaID volume.QuotaID, proceed func() error,
	) (Overcharge, error)
}

// Overcharge is what counts for a volume and is none of its files: files of other volumes, or
// deleted files that a process has open.
type Overcharge struct{ Bytes, Inodes int64 }

// MakeEmpty makes the empty directory or file that pods will see, with exactly the specification's
// mode and owner, whatever the umask. Only root can reach it before that, because its parent has
// mode
// 0700. The caller closes it.
func MakeEmpty(dir openat.Dir, spec volume.Spec) (*os.File, error) {
	f, err := openNew(dir, spec.Type)
	if err != nil {
		return nil, err
	}
	if err := SetOwner(f, spec); err != nil {
		return nil, errors.Join(err, f.Close(), RemoveEmpty(dir, spec.Type))
	}
	return f, nil
}

// RemoveEmpty undoes MakeEmpty.
func RemoveEmpty(dir openat.Dir, t volume.Type) error {
	flags := unix.AT_REMOVEDIR
	if t == volume.FileOrCreate {
		flags = 0
	}
	if err := unix.Unlinkat(dir.FD(), Data, flags); err != nil {
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
