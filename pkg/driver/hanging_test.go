package driver

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/fuse"
)

func TestPoolIsOpenedWhileTheFilesystemOfAnotherOneHangs(t *testing.T) {
	good, other := config.NewPool("good", t.TempDir()+"/good"), config.NewPool("other", t.TempDir())
	fs := fuse.Mount(t, other.Path)
	defer fs.Die() // before the cleanup waits for those that open the pools
	fs.Hang()
	pools := newPools(t, good, other)
	pools.asking = stuck.NewCalls(10 * time.Millisecond)
	keepOpening(t, pools)
	if pools.stillOpening() == nil {
		t.Error("the other pool has been tried, and its filesystem hangs")
	}
	pools.openingEnds = time.Now()
	if err := pools.stillOpening(); err != nil {
		t.Errorf("sidecars wait for a pool that hangs: %v", err)
	}
	fixture.Eventually(t, "the good pool is open", func() bool { return len(pools.Open()) == 1 })
	fs.WantAlive(t)
}

// The disk of a pool is mounted in a filesystem that hangs while the driver runs. The other pool is
// served as before. The one that hangs is said to, and refused, and costs a thread or two, however
// often anybody asks.
func TestOpenPoolThatHangsIsRefusedAndTheOtherServed(t *testing.T) {
	dir := t.TempDir()
	fs := fuse.Mount(t, dir)
	defer fs.Die()
	at := filepath.Join(dir, "mount")
	fixture.Must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	good, other := config.NewPool("good", t.TempDir()+"/good"), config.NewPool("other", at)
	pools := newPools(t, good, other)
	pools.asking = stuck.NewCalls(2 * time.Second)
	pools.askingStatus = stuck.NewCalls(2 * time.Second)
	pools.retry = 10 * time.Millisecond
	keepOpening(t, pools)
	fixture.Eventually(t, "both pools are open", func() bool { return pools.notReady() == nil })
	opened, err := pools.ByName("other")
	fixture.Must(t, err)

	fs.Hang()
	fixture.Eventually(t, "the pool is refused", func() bool {
		_, err := pools.ByName("other")
		return errors.Is(err, volume.ErrUnresponsive)
	})
	const often = 100
	for range often {
		err := pools.notReady()
		if !errors.Is(err, volume.ErrUnresponsive) || !strings.Contains(err.Error(), at) ||
			strings.Contains(err.Error(), "good") {
			t.Fatalf("not ready: %v", err)
		}
		if _, err := pools.ByID(opened.ID()); !errors.Is(err, volume.ErrUnresponsive) {
			t.Fatalf("by ID: %v", err)
		}
		if err := pools.Complete(); !errors.Is(err, volume.ErrUnavailable) {
			t.Fatalf("a list is complete: %v", err)
		}
	}
	if open := pools.Open(); len(open) != 1 || open[0].Name() != "good" {
		t.Errorf("open are %v", open)
	}
	if _, body := get(t, pools, "/readyz"); !strings.Contains(body, "pool other: not ready: hangs") ||
		strings.Contains(body, "good") {
		t.Errorf("/readyz: %s", body)
	}
	if _, body := get(t, pools, "/metrics"); !strings.Contains(body, `csi_hostpath_pool_ready{pool="good"} 1`) ||
		!strings.Contains(body, `csi_hostpath_pool_not_ready{pool="other",reason="hangs"} 1`) {
		t.Errorf("/metrics: %s", body)
	}
	const threads = 2 // that look at the path, and ask for the status
	if asked := fs.Asked(); asked > threads {
		t.Errorf("the filesystem was asked %d times", asked)
	}
	if all := pools.all(); len(all) != 2 {
		t.Errorf("%d pools would be unlocked at a stop, want 2", len(all))
	}
	fs.Answer()
	fixture.Eventually(t, "both pools are ready", func() bool { return pools.notReady() == nil })
	if p, err := pools.ByName("other"); err != nil || p != opened {
		t.Errorf("by name: %v, %v; want the pool as it was open", p, err)
	}
	fs.WantAlive(t)
}

func TestPoolsThatCannotBeClosedAreLeftToTheNextDriver(t *testing.T) {
	p := config.NewPool("p", t.TempDir()+"/p")
	pools := newPools(t, p)
	fixture.Must(t, pools.open(t.Context(), pools.slots[0]))
	fixture.Must(t, closeWithin(t.Context(), pools, time.Second, serving.ErrCutOff))
	next := newPools(t, p)
	fixture.Must(t, next.open(t.Context(), next.slots[0]))
	fixture.Must(t, next.close())
	fixture.Must(t, pools.close())
}
