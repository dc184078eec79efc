package pool

import (
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// A copy of the disk's image has what a power cut would leave: no data that the filesystem has only
// in memory. (test/vm cuts the power of a kernel without simple quotas, where btrfs makes no
// snapshots itself.)
func TestCopiesThatWereAcknowledgedSurviveAPowerCut(t *testing.T) {
	for _, fstype := range disks.Types() {
		for _, c := range copiedVolumes() {
			t.Run(fstype+", "+c.name, func(t *testing.T) {
				t.Parallel()
				cutPowerUnderCopies(t, disks.New(t, fstype, 0), c)
			})
		}
	}
}

func cutPowerUnderCopies(t *testing.T, disk disks.Disk, c copiedVolume) {
	t.Helper()
	p := openPool(t, Options{Name: "p", Path: filepath.Join(disk.Dir, "pool")})
	req := request(t, "v", 16*mib)
	req.Spec = c.spec
	v, err := p.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	c.fill(t, dataPath(p, v.ID))
	want := digest(t, dataPath(p, v.ID))
	again := func(name string, source volume.Source) volume.CreateRequest {
		req := from(t, name, source, v.CapacityBytes)
		req.Spec = c.spec
		return req
	}
	cloned := restore(t, p, again("clone", volume.FromVolume(v.ID)), only{p})
	taken := snapshot(t, p, "s", v.ID)
	restored := restore(t, p, again("restored", volume.FromSnapshot(taken.ID)), only{p})
	p = afterPowerCut(t, p, disk)
	for _, data := range []string{
		snapshotPath(p, taken.ID), dataPath(p, restored.ID), dataPath(p, cloned.ID),
	} {
		if digest(t, data) != want {
			t.Errorf("%s differs from the source", data)
		}
	}
	if s, err := p.GetSnapshot(taken.ID); err != nil || s.HeldBytes != taken.HeldBytes ||
		s.RestoreBytes != taken.RestoreBytes {
		t.Errorf("the snapshot is %+v, %v, want %+v", s, err, taken)
	}
	for _, made := range []volume.Volume{cloned, restored} {
		if got, err := p.Get(made.ID); err != nil || got.CapacityBytes != made.CapacityBytes ||
			got.QuotaID != made.QuotaID {
			t.Errorf("the volume is %+v, %v, want %+v", got, err, made)
		}
	}
}

// afterPowerCut opens the pool as it is on the disk at this moment.
func afterPowerCut(t *testing.T, p *Pool, disk disks.Disk) *Pool {
	t.Helper()
	cut := filepath.Join(t.TempDir(), "cut.img")
	mustRun(t, "cp", disk.Image, cut)
	closePool(t, p)
	// btrfs mounts only one of two filesystems with the same UUID
	if err := unix.Unmount(disk.Dir, 0); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "mount", "-o", "loop", cut, disk.Dir)
	t.Cleanup(func() {
		if err := unix.Unmount(disk.Dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return openPool(t, p.opts)
}

func mustRun(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}
