package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// TestSIGKILLAtEveryStepOfADeleteFromAFullDiskLosesNothingElse uses btrfs, because a full btrfs
// refuses every rename, so that a deleted volume is purged where it is. The driver's own files are
// on another disk.
func TestSIGKILLAtEveryStepOfADeleteFromAFullDiskLosesNothingElse(t *testing.T) {
	disks.RequireRoot(t)
	binary := fixture.Build(t, "failpoint")
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

// crashOnFullDisk returns the failpoint at which the driver died, and "" if the driver survived.
func crashOnFullDisk(
	t *testing.T, binary string, own, full disks.Disk, op operation, volumeType string, n int,
) string {
	t.Helper()
	name := fmt.Sprintf("%s-%s-%d", op, volumeType[:1], n)
	c := crashIn(nodeOn(t, binary, filepath.Join(own.Dir, name), full), op, volumeType)
	full.Fill(t)
	defer full.Unfill(t)
	return c.run(n)
}

// nodeOn returns a node whose pool is on another disk.
func nodeOn(t *testing.T, binary, dir string, disk disks.Disk) *node {
	t.Helper()
	n := newNode(t, binary, dir)
	pool := filepath.Join(disk.Dir, filepath.Base(dir))
	n.Must(os.Mkdir(pool, 0o700))
	n.Must(os.Mkdir(n.Path("pool"), 0o700))
	n.Must(unix.Mount(pool, n.Path("pool"), "", unix.MS_BIND, ""))
	return n
}

// Calls that need no room on the pool's disk succeed, both in the process that has filled the disk
// and in the next one. Calls that need room are refused with RESOURCE_EXHAUSTED and leave nothing.
func TestEveryCallOnAFullDiskIsDoneOrRefused(t *testing.T) {
	disks.RequireRoot(t)
	binary := fixture.Build(t)
	own := disks.New(t, disks.Ext4, 0)
	for _, tt := range []struct {
		name, fstype string
		mkfs         []string
	}{
		{"ext4", disks.Ext4, []string{"-m", "0", "-N", "1024"}},
		{"xfs", disks.XFS, nil},
		{"btrfs", disks.Btrfs, nil},
		{"mixed-btrfs", disks.Btrfs, []string{"--mixed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			full := disks.New(t, tt.fstype, 400<<20, disks.MkfsArgs(tt.mkfs...))
			callOnFullDisk(t, nodeOn(t, binary, filepath.Join(own.Dir, tt.name), full), full)
		})
	}
}

func callOnFullDisk(t *testing.T, n *node, full disks.Disk) {
	t.Helper()
	ctx := t.Context()
	n.Start()
	shown, err := n.create(ctx, "shown", "DirectoryOrCreate")
	n.Must(err)
	idle, err := n.create(ctx, "idle", "FileOrCreate")
	n.Must(err)
	taken, err := n.takeSnapshot(ctx, "taken", shown)
	n.Must(err)
	n.Must(n.publish(ctx, shown, n.target("a")))
	write(t, file(n.target("a"), "DirectoryOrCreate"))
	full.Fill(t)
	for range 2 {
		n.wantRefusals(shown, taken)
		n.Must(n.publish(ctx, idle, n.target("b")))
		n.Must(n.publish(ctx, shown, n.target("c")))
		wantContent(t, file(n.target("c"), "DirectoryOrCreate"))
		n.Must(n.unpublish(ctx, idle, n.target("b")))
		n.Must(n.unpublish(ctx, shown, n.target("c")))
		n.Start()
	}
	if err := n.delete(ctx, shown); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("delete a published volume: %v, want FAILED_PRECONDITION", err)
	}
	wantContent(t, file(n.target("a"), "DirectoryOrCreate"))
	n.Must(n.unpublish(ctx, shown, n.target("a")))
	n.Must(n.delete(ctx, shown))
	n.Must(n.deleteSnapshot(ctx, taken))
	n.Must(n.delete(ctx, idle))
	n.wantClean(0)
	n.wantSnapshots("")
	full.Unfill(t)
	again, err := n.create(ctx, "shown", "DirectoryOrCreate")
	n.Must(err)
	n.Must(n.delete(ctx, again))
	n.wantClean(0)
}

// wantRefusals makes every call that needs room.
func (n *node) wantRefusals(published, snapshot string) {
	n.t.Helper()
	ctx := n.t.Context()
	_, created := n.create(ctx, "new", "DirectoryOrCreate")
	_, restored := n.copy(ctx, "restored", "DirectoryOrCreate", fixture.FromSnapshot(snapshot))
	_, cloned := n.copy(ctx, "cloned", "DirectoryOrCreate", fixture.FromVolume(published))
	_, taken := n.takeSnapshot(ctx, "new", published)
	for what, err := range map[string]error{
		"create": created, "restore": restored, "clone": cloned, "snapshot": taken, "expand": n.expand(ctx, published, n.target("a")),
	} {
		if status.Code(err) != codes.ResourceExhausted {
			n.t.Errorf("%s: %v, want RESOURCE_EXHAUSTED", what, err)
		}
	}
	if ids := n.volumes(); len(ids) != 2 {
		n.t.Errorf("the driver lists %q", ids)
	}
}
