//go:build vm

package quotas

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// The disk has some blocks more at each try, so that every step of a create meets its end. The
// ledger would not let it come so far: an operator who oversells a thousand times has none.
func TestDiskThatIsFullUnderARecordLeavesNothingHalfMade(t *testing.T) {
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, 300*mib, append(unreserved(fstype), disks.ProjectQuota())...)
			n := newNode(t, disk.Dir, "full", "  overcommit: 1000\n")
			n.Start()
			old := make([]string, 3)
			for i := range old {
				var err error
				old[i], err = n.create(t.Context(), fmt.Sprintf("old-%d", i), volume.DirectoryOrCreate, mib)
				n.Must(err)
			}
			filler := fillDisk(t, disk.Dir)
			n.wantRefusals(filler, len(old))

			// On the full disk everything can go, and what has gone makes room.
			n.Must(fillUp(filler))
			for _, id := range old {
				n.Must(n.delete(t.Context(), id))
			}
			n.wantNothingLeft()
			n.Must(os.Remove(filler.Name()))
			n.Must(filler.Close())
			id, err := n.create(t.Context(), "after", volume.DirectoryOrCreate, mib)
			n.Must(err)
			n.wantQuotaOfEach(1)
			n.Must(n.delete(t.Context(), id))
			n.wantNothingLeft()
		})
	}
}

// unreserved lets ext4 keep nothing for root: what the ledger takes for the last free block is the
// last one.
func unreserved(fstype string) []disks.Option {
	if fstype == disks.Ext4 {
		return []disks.Option{disks.MkfsArgs("-m", "0")}
	}
	return nil
}

// wantRefusals creates on a disk that has no room, then some blocks, then more, until a volume
// fits.
func (n *node) wantRefusals(filler *os.File, volumes int) {
	n.t.Helper()
	const tries = 64
	var st unix.Statfs_t
	n.Must(unix.Statfs(n.disk, &st))
	for refused := range tries {
		name := fmt.Sprintf("%060d", refused) // as long as names are, so that directories grow too
		id, err := n.create(n.t.Context(), name, volume.DirectoryOrCreate, 1)
		if err == nil {
			if refused == 0 {
				n.t.Error("no create met the end of the disk")
			}
			n.Must(n.delete(n.t.Context(), id))
			n.eventually("it is purged", func() bool { return len(n.entries("trash")) == 0 })
			return
		}
		if status.Code(err) != codes.ResourceExhausted {
			n.t.Errorf("after %d tries: %v, want RESOURCE_EXHAUSTED", refused, err)
		}
		if got := n.volumes(); len(got) != volumes {
			n.t.Errorf("after %d tries the driver lists %q", refused, got)
		}
		n.eventually("what was begun is purged", func() bool { return len(n.entries("tmp")) == 0 })
		n.wantQuotaOfEach(volumes)
		info, err := filler.Stat()
		n.Must(err)
		// A create that fails late takes a block for good where the filesystem is XFS: its project ID is
		// new to the quota file (docs/sizes.md).
		n.Must(filler.Truncate(info.Size() - 2*st.Bsize))
		n.Must(filler.Sync())
	}
	n.t.Errorf("no volume fits after %d tries", tries)
}

// wantQuotaOfEach: so many projects have a limit, and no others.
func (n *node) wantQuotaOfEach(volumes int) {
	n.t.Helper()
	if quotas := guest.ProjectQuotas(n.t, n.disk, firstID); len(quotas) != volumes {
		n.t.Errorf("quotas are %+v, want %d", quotas, volumes)
	}
}

// fillDisk takes all the space there is.
func fillDisk(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := fillUp(f); err != nil {
		t.Fatal(err)
	}
	return f
}

// fillUp lets a file take what space there is.
func fillUp(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	for chunk := int64(64 * mib); chunk >= 512; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, chunk); {
		case err == nil:
			size += chunk
		case isFull(err):
			chunk /= 2
		default:
			return err
		}
	}
	return f.Sync()
}
