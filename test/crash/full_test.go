package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// TestSIGKILLAtEveryStepOfADeleteFromAFullDiskLosesNothingElse is for btrfs, which refuses every
// rename then: what is deleted is purged where it is. The driver itself lives on another disk.
func TestSIGKILLAtEveryStepOfADeleteFromAFullDiskLosesNothingElse(t *testing.T) {
	disks.RequireRoot(t)
	binary := buildDriver(
		t,
		func(ctx context.Context, dir string) (string, error) { return process.Build(ctx, dir, "failpoint") },
	)
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
func crashOnFullDisk(
	t *testing.T, binary string, own, full disks.Disk, op operation, volumeType string, n int,
) string {
	t.Helper()
	name := fmt.Sprintf("%s-%s-%d", op, volumeType[:1], n)
	c := crashIn(worldOn(t, binary, filepath.Join(own.Dir, name), full), op, volumeType)
	full.Fill(t)
	defer full.Unfill(t)
	return c.run(n)
}

// worldOn has its pool on another disk.
func worldOn(t *testing.T, binary, dir string, disk disks.Disk) *world {
	t.Helper()
	w := newWorld(t, binary, dir)
	pool := filepath.Join(disk.Dir, filepath.Base(dir))
	w.must(os.Mkdir(pool, 0o700))
	w.must(os.Mkdir(w.path("pool"), 0o700))
	w.must(unix.Mount(pool, w.path("pool"), "", unix.MS_BIND, ""))
	return w
}

// What needs no room on the pool's disk works as ever, in the process that has met its end and in
// the next one; what needs some is refused as such and leaves nothing.
func TestEveryCallOnAFullDiskIsDoneOrRefused(t *testing.T) {
	disks.RequireRoot(t)
	binary := buildDriver(t,
		func(ctx context.Context, dir string) (string, error) { return process.Build(ctx, dir) })
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
			callOnFullDisk(t, worldOn(t, binary, filepath.Join(own.Dir, tt.name), full), full)
		})
	}
}

func callOnFullDisk(t *testing.T, w *world, full disks.Disk) {
	t.Helper()
	ctx := t.Context()
	w.start()
	shown, err := w.create(ctx, "shown", "DirectoryOrCreate")
	w.must(err)
	idle, err := w.create(ctx, "idle", "FileOrCreate")
	w.must(err)
	taken, err := w.takeSnapshot(ctx, "taken", shown)
	w.must(err)
	w.must(w.publish(ctx, shown, w.target("a")))
	write(t, file(w.target("a"), "DirectoryOrCreate"))
	full.Fill(t)
	for range 2 {
		w.wantRefusals(shown, taken)
		w.must(w.publish(ctx, idle, w.target("b")))
		w.must(w.publish(ctx, shown, w.target("c")))
		wantContent(t, file(w.target("c"), "DirectoryOrCreate"))
		w.must(w.unpublish(ctx, idle, w.target("b")))
		w.must(w.unpublish(ctx, shown, w.target("c")))
		w.restart()
	}
	if err := w.delete(ctx, shown); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("delete what is published: %v, want FAILED_PRECONDITION", err)
	}
	wantContent(t, file(w.target("a"), "DirectoryOrCreate"))
	w.must(w.unpublish(ctx, shown, w.target("a")))
	w.must(w.delete(ctx, shown))
	w.must(w.deleteSnapshot(ctx, taken))
	w.must(w.delete(ctx, idle))
	w.wantClean(0)
	w.wantSnapshots("")
	full.Unfill(t)
	again, err := w.create(ctx, "shown", "DirectoryOrCreate")
	w.must(err)
	w.must(w.delete(ctx, again))
	w.wantClean(0)
}

// wantRefusals asks for everything that takes room.
func (w *world) wantRefusals(published, snapshot string) {
	w.t.Helper()
	ctx := w.t.Context()
	_, created := w.create(ctx, "new", "DirectoryOrCreate")
	_, restored := w.copy(ctx, "restored", "DirectoryOrCreate", fromSnapshot(snapshot))
	_, cloned := w.copy(ctx, "cloned", "DirectoryOrCreate", fromVolume(published))
	_, taken := w.takeSnapshot(ctx, "new", published)
	for what, err := range map[string]error{
		"create": created, "restore": restored, "clone": cloned, "snapshot": taken, "expand": w.expand(ctx, published, w.target("a")),
	} {
		if status.Code(err) != codes.ResourceExhausted {
			w.t.Errorf("%s: %v, want RESOURCE_EXHAUSTED", what, err)
		}
	}
	if ids := w.volumes(); len(ids) != 2 {
		w.t.Errorf("the driver lists %q", ids)
	}
}
