package pool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The entries of a pool's directory.
const (
	markerFile    = record.PoolFile
	markerTmpFile = markerFile + ".tmp"
	lockFile      = "lock"
	volumesDir    = "volumes"
	snapshotsDir  = "snapshots"
	tmpDir        = "tmp"
	trashDir      = "trash"
	// lostAndFound is what mkfs.ext4 leaves in an empty filesystem.
	lostAndFound = "lost+found"
)

var ownDirs = []string{volumesDir, snapshotsDir, tmpDir, trashDir}

// readMarker reports os.ErrNotExist for a directory that is not a pool yet. Errors: ErrCorrupt,
// ErrUnavailable for a newer format.
func readMarker(root openat.Dir) (record.Pool, error) {
	f, err := root.OpenFile(markerFile, unix.O_RDONLY, 0)
	if err != nil {
		return record.Pool{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, record.MaxBytes))
	if err != nil {
		return record.Pool{}, fmt.Errorf("read %s: %w", markerFile, err)
	}
	return record.DecodePool(content)
}

// checkUnused refuses a directory that holds anything but the beginnings of a pool, which a crash
// of an earlier start may have left. Errors: ErrUnavailable.
func checkUnused(root openat.Dir) error {
	names, err := root.Readdirnames(-1)
	if err != nil {
		return err
	}
	allowed := append([]string{lockFile, markerTmpFile, lostAndFound}, ownDirs...)
	foreign := slices.DeleteFunc(slices.Clone(names),
		func(n string) bool { return slices.Contains(allowed, n) })
	if len(foreign) > 0 {
		slices.Sort(foreign)
		return volume.Because(volume.ReasonForeign, fmt.Errorf(
			"%w: it holds %d entries that are no pool's, such as %q, and no %s: give the pool an empty directory",
			volume.ErrUnavailable,
			len(foreign),
			foreign[0],
			markerFile,
		))
	}
	for _, name := range ownDirs {
		if err := checkEmpty(root, name); err != nil {
			return err
		}
	}
	return nil
}

func checkEmpty(root openat.Dir, name string) error {
	d, err := root.OpenDir(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: look whether %s/ is empty: %w", volume.ErrUnavailable, name, err)
	}
	return volume.Because(volume.ReasonDamaged, fmt.Errorf(
		"%w: %s is missing and %s/ is not empty, it has %q: put %s back from a backup, or give the pool an empty directory",
		volume.ErrUnavailable,
		markerFile,
		name,
		names[0],
		markerFile,
	))
}

// initialize turns a directory into a pool. It can be repeated after a crash at any step.
func initialize(root openat.Dir) (record.Pool, error) {
	for _, name := range ownDirs {
		if err := unix.Mkdirat(root.FD(), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return record.Pool{}, &os.PathError{Op: "mkdir", Path: name, Err: err}
		}
	}
	failpoint.Here("pool.init.directories")
	m := record.NewPool()
	content, err := m.Encode()
	if err != nil {
		return record.Pool{}, err
	}
	if err := unix.Unlinkat(root.FD(), markerTmpFile, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return record.Pool{}, &os.PathError{Op: "unlink", Path: markerTmpFile, Err: err}
	}
	if err := root.WriteFile(markerTmpFile, content, (*os.File).Sync); err != nil {
		return record.Pool{}, err
	}
	failpoint.Here("pool.init.marker-written")
	if err := root.RenameNoReplace(markerTmpFile, root, markerFile); err != nil {
		return record.Pool{}, err
	}
	failpoint.Here("pool.init.marker-renamed")
	return m, root.Sync()
}

// lockPool locks the pool for this process until the pool's directory is closed. The kernel
// releases the lock when the process ends, also after a crash. The lock is on the directory itself,
// because a lock file could be removed and made again by a second driver. The file has the number
// of the process. Errors: ErrUnavailable while another process has the lock.
func lockPool(root openat.Dir) error {
	f, err := root.OpenFile(lockFile, unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(root.FD(), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		return volume.Because(volume.ReasonInUse, fmt.Errorf(
			"%w: a live driver owns it (process %q by its %s file): %w",
			volume.ErrUnavailable, strings.TrimSpace(string(holder)), lockFile, err))
	}
	// The number only helps the person who reads the error; it is not needed for the lock.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return nil
}
