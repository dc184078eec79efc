// Package layout is what a pool is on disk: a directory with pool.json, a lock, and the directories
// of the volumes, of the snapshots, and of what is unfinished or deleted. It makes a directory a
// pool, opens and locks it, and says whether it is still at its path and how much space its
// filesystem has.
package layout

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The entries of a pool's directory.
const (
	RecordFile   = record.PoolFile
	LockFile     = "lock"
	VolumesDir   = "volumes"
	SnapshotsDir = "snapshots"
	TmpDir       = "tmp"
	TrashDir     = "trash"
)

// Dir is a pool's directory, open and locked for this process.
type Dir struct {
	ID volume.PoolID
	// UUID is all of what the ID is the beginning of.
	UUID string
	// Location is where the directory is in its filesystem.
	Location mount.Location
	// Root is the directory itself. The others are directories in it.
	Root, Volumes, Snapshots, Tmp, Trash openat.Dir

	path   string
	opened opened
}

// Options says what is required of a pool's directory. Every field but Path may be zero. For the
// meaning of those without a comment see pool.Options.
type Options struct {
	Path                                  string
	MustExist, RequireMountpoint, WasOpen bool

	Admit func(d *os.File, rest string) error
	Claim func(id volume.PoolID) error
	// CheckFilesystem, if set, is asked whether the filesystem of a directory is fit for the pool,
	// before anything is made or changed there.
	CheckFilesystem func(d openat.Dir) error
}

// Open opens the pool at a path and locks it. An empty or absent directory becomes a pool first,
// where the options allow it. The caller closes the Dir. Errors: ErrUnavailable when the directory
// is not fit to be this pool (the text says why), ErrCorrupt when its record cannot be used,
// os.ErrNotExist where nothing is and nothing may be made.
func Open(opts Options) (_ *Dir, err error) {
	d := &Dir{path: opts.Path}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := d.openRoot(opts); err != nil {
		return nil, err
	}
	if err := d.lockAndIdentify(opts); err != nil {
		return nil, err
	}
	if err := d.openDirs(); err != nil {
		return nil, err
	}
	if d.Location, err = mount.Locate(d.Root.File); err != nil {
		return nil, err
	}
	d.opened, err = openedOf(d.Root.File)
	return d, err
}

// OpenExisting locks the pool at a path and opens its Root and its Volumes, and no other directory.
// It makes and changes nothing. The caller closes the Dir. Errors: ErrUnavailable while a driver
// has the pool, or for a newer format; ErrCorrupt; os.ErrNotExist when there is no pool.
func OpenExisting(path string) (_ *Dir, err error) {
	d := &Dir{path: path}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.Root, err = openat.OpenDir(path); err != nil {
		return nil, err
	}
	if d.ID, err = readID(d.Root); err != nil {
		return nil, err
	}
	if err := lock(d.Root); err != nil {
		return nil, err
	}
	d.Volumes, err = d.Root.OpenUnmounted(VolumesDir)
	return d, err
}

// IDAt returns the ID of the pool at a path. The pool may be open. Errors: os.ErrNotExist when
// there is no pool.
func IDAt(path string) (volume.PoolID, error) {
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return readID(openat.Dir{File: f})
}

// lockAndIdentify finds out what the open directory is, locks it, and makes it a pool if it is not
// one yet. A pool that the options refuse is not changed.
func (d *Dir) lockAndIdentify(opts Options) error {
	r, err := readRecord(d.Root)
	isNew := errors.Is(err, os.ErrNotExist)
	if err != nil && !isNew {
		return err
	}
	if isNew {
		if err := errors.Join(checkMayBeMade(d.Root, opts), checkUnused(d.Root)); err != nil {
			return err
		}
	}
	if err := lock(d.Root); err != nil {
		return err
	}
	if isNew {
		if r, err = initialize(d.Root); err != nil {
			return err
		}
	}
	if d.ID, err = r.ID(); err != nil {
		return err
	}
	d.UUID = r.UUID
	if opts.Claim != nil {
		if err := opts.Claim(d.ID); err != nil {
			return err
		}
	}
	return errors.Join(openat.RemoveACLs(d.Root.File), d.Root.Chmod(0o700))
}

// dirs are the directories that ownDirs names, in that order.
func (d *Dir) dirs() []*openat.Dir {
	return []*openat.Dir{&d.Volumes, &d.Snapshots, &d.Tmp, &d.Trash}
}

// openDirs opens the directories. All that is made in them later would inherit a default ACL, which
// gives users and groups what a volume's mode denies them.
func (d *Dir) openDirs() (err error) {
	for i, dir := range d.dirs() {
		*dir, err = d.Root.OpenUnmounted(ownDirs[i])
		if errors.Is(err, unix.EXDEV) { // what is mounted there may hide volumes
			return fmt.Errorf("%w: %w: unmount it", volume.ErrUnavailable, err)
		}
		if err != nil {
			return err
		}
		if err := openat.RemoveACLs(dir.File); err != nil {
			return err
		}
	}
	return nil
}

// Sync makes the entries of all directories durable.
func (d *Dir) Sync() error {
	var errs []error
	for _, dir := range append(d.dirs(), &d.Root) {
		errs = append(errs, dir.Sync())
	}
	return errors.Join(errs...)
}

// Close closes the directories. With that another process can have the pool.
func (d *Dir) Close() error {
	var errs []error
	for _, dir := range append(d.dirs(), &d.Root) {
		if dir.File != nil {
			errs = append(errs, dir.Close())
		}
	}
	return errors.Join(errs...)
}
