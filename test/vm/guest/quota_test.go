//go:build vm

package guest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	limit = 4 << 20 // bytes
	block = 4 << 10
)

// TestProjectQuotaHolds is what this machine is for: a directory with a project ID takes as much as
// its limit and no more, and its neighbour does not notice.
func TestProjectQuotaHolds(t *testing.T) {
	for i, fstype := range []string{"xfs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			root := Disk(t, fstype)
			project := uint32(1000 + i) //nolint:gosec // small
			dir := filepath.Join(root, "limited")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := SetProject(dir, project); err != nil {
				t.Fatal(err)
			}
			LimitProject(t, root, project, limit)

			var written int64
			err := AsPod(func() (err error) { written, err = fill(filepath.Join(dir, "data")); return err })
			// XFS answers ENOSPC for a project, as statfs(2) there shows the project's size.
			if !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
				t.Errorf("after %d bytes: %v, want EDQUOT or ENOSPC", written, err)
			}
			if written > limit || written < limit-64*block {
				t.Errorf("%d bytes were written, want the limit of %d, or a little less", written, limit)
			}
			if used := ProjectQuota(t, root, project).UsedBytes; used > limit {
				t.Errorf("%d bytes are used, want at most %d", used, limit)
			}
			if err := os.WriteFile(
				filepath.Join(root, "neighbour"),
				make([]byte, 2*limit),
				0o600,
			); err != nil {
				t.Errorf("a file outside of the project: %v", err)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			if size := int64(st.Blocks) * st.Bsize; size != limit { //nolint:gosec // a disk is small
				t.Errorf("df shows %d bytes, want the limit of %d", size, limit)
			}
		})
	}
}

// fill writes past the limit, a block at a time, and returns how much has gone in.
func fill(path string) (written int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for written < 2*limit {
		n, err := f.Write(make([]byte, block))
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, f.Sync()
}
