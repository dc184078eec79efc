package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// crashGroups kills the driver at every step of a group snapshot: of images, one of which a pod is
// writing to, and on btrfs of directories and images together.
func crashGroups(t *testing.T, binary, dir, fstype string, hit map[string]bool) {
	t.Helper()
	kinds := map[string]func(*groupCrash){"images": (*groupCrash).addImage}
	if fstype == disks.Btrfs {
		kinds["directories and images"] = (*groupCrash).addDirectories
	}
	for name, addOthers := range kinds {
		t.Run("group snapshot of "+name, func(t *testing.T) {
			g := newGroupCrash(newNode(t, binary, filepath.Join(dir, "group-"+name[:1])))
			addOthers(g)
			g.atEveryStep(hit, g.remove, g.take, g.checkTaken)
			g.atEveryStep(hit, g.take, g.remove, g.checkRemoved)
			g.atEveryStep(hit, g.takeAndDamage, g.remove, g.checkRemoved)
			g.takeDown()
		})
	}
}

// groupCrash is a node with volumes whose group snapshot is taken and deleted again and again.
type groupCrash struct {
	*node

	image   *imageCrash // a pod writes to it
	sources []string
	// isDamaged: no record says which snapshots are of the group, so a start deletes none of them.
	isDamaged bool
	group     *csi.VolumeGroupSnapshot
}

func newGroupCrash(n *node) *groupCrash {
	n.t.Helper()
	// imageUnpublish, because that one leaves the volume published
	g := &groupCrash{node: n, image: newImageCrash(n, imageUnpublish)}
	g.sources = []string{g.image.victim}
	return g
}

func (g *groupCrash) addDirectories() {
	g.t.Helper()
	for _, name := range []string{"a", "b"} {
		id, err := g.create(g.t.Context(), name, "DirectoryOrCreate")
		g.Must(err)
		g.sources = append(g.sources, id)
	}
}

func (g *groupCrash) addImage() {
	g.t.Helper()
	resp, err := g.Controller.CreateVolume(g.t.Context(), &csi.CreateVolumeRequest{
		Name:               "idle",
		CapacityRange:      &csi.CapacityRange{RequiredBytes: volumeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
		Parameters:         map[string]string{"backing": "image"},
	})
	g.Must(err)
	g.sources = append(g.sources, resp.GetVolume().GetVolumeId())
}

// atEveryStep kills the driver at the first failpoint of group snapshots that the call passes, then
// at the second, and so on until the driver survives the call. Each time it repeats the call.
func (g *groupCrash) atEveryStep(
	hit map[string]bool, prepare, call func(context.Context) error, check func(point string),
) {
	g.t.Helper()
	for n := 1; n <= maxSteps; n++ {
		g.Start()
		g.Must(prepare(g.t.Context()))
		g.Start(fmt.Sprintf("CSI_HOSTPATH_FAILPOINT=group.:%d", n))
		err := call(g.t.Context())
		if err == nil {
			check("")
			return
		}
		select {
		case <-g.Exited():
		case <-time.After(fixture.Patience()):
			g.t.Fatalf("the driver is alive and the call fails with %v", err)
		}
		point := g.killedAt()
		hit[point] = true
		g.Start()
		// Before the retry: nothing of it is there, or all.
		if got := len(g.Entries("pool", "snapshots")); !g.isDamaged && got != 0 && got != len(g.sources) {
			g.t.Errorf("killed at %s: after the start there are %d of %d snapshots", point, got,
				len(g.sources))
		}
		write(g.t, filepath.Join(g.image.target, "thawed"))
		for range 2 {
			if err := call(g.t.Context()); err != nil {
				g.t.Fatalf("killed at %s: the retry: %v", point, err)
			}
		}
		check(point)
	}
	g.t.Fatalf("the driver still dies at step %d", maxSteps)
}

func (g *groupCrash) take(ctx context.Context) error {
	resp, err := g.Groups.CreateVolumeGroupSnapshot(ctx,
		&csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: g.sources})
	if err == nil {
		g.group = resp.GetGroupSnapshot()
	}
	return err
}

// takeAndDamage takes the group snapshot, and makes all of its records unreadable.
func (g *groupCrash) takeAndDamage(ctx context.Context) error {
	g.isDamaged = true
	errs := []error{g.take(ctx)}
	for _, name := range g.Entries("pool", "snapshots") {
		file := g.Path("pool", "snapshots", name, "snapshot.json")
		errs = append(errs, os.WriteFile(file, []byte("x"), 0o600))
	}
	return errors.Join(errs...)
}

func (g *groupCrash) checkTaken(point string) {
	g.t.Helper()
	var want []string
	for _, s := range g.group.GetSnapshots() {
		want = append(want, s.GetSnapshotId()[len("0123456789ab-s-"):])
	}
	slices.Sort(want)
	if got := g.Entries("pool", "snapshots"); !slices.Equal(got, want) || len(want) != len(g.sources) {
		g.t.Errorf("killed at %q: snapshots/ has %q, the group %q", point, got, want)
	}
	g.eventually("what the crash left is purged", func() bool { return len(g.leftovers()) == 0 })
}

func (g *groupCrash) remove(ctx context.Context) error {
	if g.group == nil { // nothing was taken yet
		return nil
	}
	req := &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.group.GetGroupSnapshotId()}
	for _, s := range g.group.GetSnapshots() {
		req.SnapshotIds = append(req.SnapshotIds, s.GetSnapshotId())
	}
	_, err := g.Groups.DeleteVolumeGroupSnapshot(ctx, req)
	return err
}

func (g *groupCrash) checkRemoved(point string) {
	g.t.Helper()
	if got := g.Entries("pool", "snapshots"); len(got) > 0 {
		g.t.Errorf("killed at %q: snapshots/ has %q", point, got)
	}
}

func (g *groupCrash) takeDown() {
	g.t.Helper()
	ctx := g.t.Context()
	wantContent(g.t, filepath.Join(g.image.target, "file"))
	for _, step := range []step{imageUnpublish, imageUnstage} {
		g.Must(g.image.do(ctx, step))
	}
	g.image.waitDetached()
	for _, id := range g.sources {
		g.Must(g.delete(ctx, id))
	}
	g.wantSnapshots("")
	g.wantClean(0)
	g.Stop()
}
