package mount

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Usage is that of the filesystem mounted at a target. Errors: ErrNotFound when nothing is mounted
// there.
func Usage(t Target) (volume.Usage, error) {
	at, err := t.open()
	if errors.Is(err, os.ErrNotExist) {
		return volume.Usage{}, fmt.Errorf("%w: nothing is published at %s", volume.ErrNotFound, t)
	}
	if err != nil {
		return volume.Usage{}, err
	}
	defer at.close()
	st, err := at.look()
	if errors.Is(err, unix.ENOENT) || err == nil && !st.mountRoot {
		return volume.Usage{}, fmt.Errorf("%w: nothing is published at %s", volume.ErrNotFound, t)
	}
	if err != nil {
		return volume.Usage{}, &os.PathError{Op: "stat", Path: t.String(), Err: err}
	}
	f, err := at.pin()
	if err != nil {
		return volume.Usage{}, err
	}
	defer f.Close()
	return UsageOf(f)
}

// UsageOf is one statfs(2), whatever the file's filesystem holds. A filesystem without quotas knows
// only its own numbers, and those are what bounds the writer: they are reported, not an invented
// share of them.
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

// Bytes is a number of blocks in bytes; beyond 8 EiB everything is 8 EiB.
func Bytes(blocks uint64, blockSize int64) int64 {
	if blockSize <= 0 || blocks > math.MaxInt64/uint64(blockSize) {
		return math.MaxInt64
	}
	return int64(blocks) * blockSize //nolint:gosec // compared above
}
