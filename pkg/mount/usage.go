package mount

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Usage returns the usage of the filesystem that is mounted at a target. Errors: ErrNotFound when
// nothing is mounted there.
func Usage(t Target) (volume.Usage, error) {
	at, err := t.open()
	if errors.Is(err, os.ErrNotExist) {
		return volume.Usage{}, fmt.Errorf("%w: nothing is published at %s", volume.ErrNotFound, t)
	}
	if err != nil {
		return volume.Usage{}, err
	}
	defer at.close()
	st, err := at.stat()
	if errors.Is(err, unix.ENOENT) || err == nil && !st.mountRoot {
		return volume.Usage{}, fmt.Errorf("%w: nothing is published at %s", volume.ErrNotFound, t)
	}
	if err != nil {
		return volume.Usage{}, &os.PathError{Op: "stat", Path: t.String(), Err: err}
	}
	f, err := at.openEntry()
	if err != nil {
		return volume.Usage{}, err
	}
	defer f.Close()
	return UsageOf(f)
}

// FilesystemAt names the filesystem that is mounted at a target, without a question to it. If that
// cannot be found, the target names it.
func FilesystemAt(t Target) string {
	at, err := t.open()
	if err != nil {
		return t.String()
	}
	defer at.close()
	st, err := at.stat()
	if err != nil {
		return t.String()
	}
	return fmt.Sprintf("filesystem %d", st.id.Device)
}

// UsageOf returns the usage of a file's filesystem, by one statfs(2). Without quotas these numbers
// are what bounds a writer, so they are reported as they are, not as an invented share of them.
func UsageOf(f *os.File) (volume.Usage, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return volume.Usage{}, fmt.Errorf("statfs of %s: %w", f.Name(), err)
	}
	return volume.Usage{
		TotalBytes:      Bytes(st.Blocks, st.Bsize),
		UsedBytes:       Bytes(st.Blocks-min(st.Bfree, st.Blocks), st.Bsize),
		AvailableBytes:  Bytes(st.Bavail, st.Bsize),
		TotalInodes:     Bytes(st.Files, 1),
		UsedInodes:      Bytes(st.Files-min(st.Ffree, st.Files), 1),
		AvailableInodes: Bytes(st.Ffree, 1),
	}, nil
}

// Bytes converts blocks to bytes; more than 8 EiB is returned as 8 EiB.
func Bytes(blocks uint64, blockSize int64) int64 {
	if blockSize <= 0 || blocks > math.MaxInt64/uint64(blockSize) {
		return math.MaxInt64
	}
	return int64(blocks) * blockSize //nolint:gosec // compared above
}
