package layout

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	recordTmpFile = RecordFile + ".tmp"
	// lostAndFound is what mkfs.ext4 leaves in an empty filesystem.
	lostAndFound = "lost+found"
)

// ownDirs are the directories of every pool.
var ownDirs = []string{VolumesDir, SnapshotsDir, TmpDir, TrashDir}

// readRecord reads pool.json. Errors: os.ErrNotExist for a directory that is not a pool yet;
// ErrCorrupt, ErrUnavailable for a newer format.
func readRecord(root openat.Dir) (record.Pool, error) {
	f, err := root.OpenFile(RecordFile, unix.O_RDONLY, 0)
	if err != nil {
		return record.Pool{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, record.MaxBytes))
	if err != nil {
		return record.Pool{}, fmt.Errorf("read %s: %w", RecordFile, err)
	}
	return record.DecodePool(content)
}

// readID reads the ID of the pool from pool.json. Errors: those of readRecord.
func readID(root openat.Dir) (volume.PoolID, error) {
	r, err := readRecord(root)
	if err != nil {
		return "", err
	}
	return r.ID()
}

// checkUnused refuses a directory that holds anything but the beginnings of a pool, which a crash
// of an earlier start may have left. Errors: ErrUnavailable.
func checkUnused(root openat.Dir) error {
	names, err := root.Readdirnames(-1)
	if err != nil {
		return err
	}
	allowed := append([]string{LockFile, recordTmpFile, lostAndFound}, ownDirs...)
	others := slices.DeleteFunc(slices.Clone(names),
		func(n string) bool { return slices.Contains(allowed, n) })
	if len(others) > 0 {
		slices.Sort(others)
		return volume.Because(volume.ReasonForeign, fmt.Errorf(
			"%w: it holds %d entries that are no pool's, such as %q, and no %s: give the pool an empty directory",
			volume.ErrUnavailable,
			len(others),
			others[0],
			RecordFile,
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
		RecordFile,
		name,
		names[0],
		RecordFile,
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
	r := record.NewPool()
	content, err := r.Encode()
	if err != nil {
		return record.Pool{}, err
	}
	if err := root.WriteTmpFile(recordTmpFile, content, (*os.File).Sync); err != nil {
		return record.Pool{}, err
	}
	failpoint.Here("pool.init.marker-written")
	if err := root.RenameNoReplace(recordTmpFile, root, RecordFile); err != nil {
		return record.Pool{}, err
	}
	failpoint.Here("pool.init.marker-renamed")
	return r, root.Sync()
}
