package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// TestSIGKILLAtEveryStepOfADeleteFromAFullDiskLosesNothingElse is for btrfs, which refuses every rename then: what is deleted is purged
// where it is. The driver itself lives on another disk.
func TestSIGKILLAtEveryStepOfADeleteFromAFullDiskLosesNothingElse(t *testing.T) {
	disks.RequireRoot(t)
	binary := buildDriver(t, func(ctx context.Context, dir string) (string, error) { return process.Build(ctx, dir, "failpoint") })
	own := disks.New(t, disks.Ext4, 0)
	full := disks.New(t, disks.Btrfs, 256<<20, disks.MkfsArgs("--mixed"))
	for _, op := range []operation{deleting, unsnapshotting} {
		for _, volumeType := range []string{"DirectoryOrCreate", "FileOrCreate"} {
			t.Run(fmt.Sprintf("%s %s", op, volumeType), func(t *testing.T) {
				for n := 1; crashOnFullDisk(t, binary, own, full, op, volumeType, n) != ""; n++ {
					if n == maxSteps {
						t.Fatalf("the driver still dies at step %d", n)
					}
				}
			})
		}
	}
}

// crashOnFullDisk returns where the driver died; empty, if it did not.
func crashOnFullDisk(t *testing.T, binary string, own, full disks.Disk, op operation, volumeType string, n int) string {
	t.Helper()
	name := fmt.Sprintf("%s-%s-%d", op, volumeType[:1], n)
	w := newWorld(t, binary, filepath.Join(own.Dir, name))
	pool := filepath.Join(full.Dir, name)
	w.must(os.Mkdir(pool, 0o700))
	w.must(os.Mkdir(w.path("pool"), 0o700))
	w.must(unix.Mount(pool, w.path("pool"), "", unix.MS_BIND, ""))
	c := crashIn(w, op, volumeType)
	full.Fill(t)
	defer full.Unfill(t)
	return c.run(n)
}
