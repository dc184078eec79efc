package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// displaceable is an open pool with one volume, and with what a test needs to take the pool away
// from its path.
type displaceable struct {
	set    *poolSet
	pool   *pool.Pool
	volume volume.Volume
	// leave ends a call that has found the pool. The pool is not closed before the call ends.
	leave func()
}

func newDisplaceable(t *testing.T, path string) displaceable {
	t.Helper()
	s := newPools(t, config.NewPool("p", path))
	keepOpening(t, s)
	d := displaceable{set: s}
	fixture.Eventually(t, "the pool is open", func() bool { return s.notReady() == nil })
	d.leave = sync.OnceFunc(s.calls.enter())
	t.Cleanup(d.leave)
	var err error
	if d.pool, err = s.ByName("p"); err != nil {
		t.Fatal(err)
	}
	if d.volume, err = d.create(t, "v"); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d displaceable) create(t *testing.T, name string) (volume.Volume, error) {
	t.Helper()
	parsed, err := volume.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return d.pool.Create(t.Context(), volume.CreateRequest{
		Name: parsed, Spec: volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
		Size: volume.SizeRange{Required: 1 << 20},
	})
}

// wantGivenUp checks that the pool promises nothing from now on, and that the driver notices the
// displaced pool.
func (d displaceable) wantGivenUp(t *testing.T) {
	t.Helper()
	defer d.leave()
	d.wantNoPromise(t)
	fixture.Eventually(t, "the pool is given up", func() bool {
		_, err := d.set.ByName("p")
		return errors.Is(err, volume.ErrUnavailable) && d.set.notReady() != nil
	})
}

func (d displaceable) wantNoPromise(t *testing.T) {
	t.Helper()
	if v, err := d.create(t, "later"); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("created %v, %v on a pool that is no longer at its path", v, err)
	}
	if bytes, err := d.pool.Largest(volume.Spec{}); bytes > 0 || err == nil {
		t.Errorf("%d bytes are offered, %v", bytes, err)
	}
}

func (d displaceable) wantBack(t *testing.T) {
	t.Helper()
	fixture.Eventually(t, "the pool is open again", func() bool { return d.set.notReady() == nil })
	p, err := d.set.ByID(d.volume.ID.Pool())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Get(d.volume.ID); err != nil {
		t.Error(err)
	}
}

func mountDisk(t *testing.T, disk disks.Disk, fstype, at string) {
	t.Helper()
	if err := unix.Mount(disk.Device, at, fstype, 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}

func unmountLazily(t *testing.T, at string) {
	t.Helper()
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

func TestPoolWhoseDiskIsUnmountedIsGivenUpAndComesBackWithIt(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disk, at := disks.New(t, fstype, 0), t.TempDir()
			mountDisk(t, disk, fstype, at)
			d := newDisplaceable(t, at)
			unmountLazily(t, at)
			d.wantGivenUp(t)
			if left, err := os.ReadDir(at); err != nil || len(left) > 0 {
				t.Errorf("in the directory below: %v, %v", left, err)
			}
			mountDisk(t, disk, fstype, at)
			d.wantBack(t)
		})
	}
}

func TestAnotherDiskAtThePathIsAnotherPool(t *testing.T) {
	disk, other, at := disks.New(t, disks.Ext4, 0), disks.New(t, disks.Ext4, 0), t.TempDir()
	mountDisk(t, disk, disks.Ext4, at)
	d := newDisplaceable(t, at)
	unmountLazily(t, at)
	mountDisk(t, other, disks.Ext4, at)
	d.wantNoPromise(t)
	d.leave()
	fixture.Eventually(t, "the other disk is taken up", func() bool {
		p, err := d.set.ByName("p")
		return err == nil && p.ID() != d.pool.ID()
	})
	_, err := d.set.ByID(d.volume.ID.Pool())
	if !errors.Is(err, volume.ErrNotFound) || !strings.Contains(err.Error(), "another disk") {
		t.Errorf("the old disk's volume: %v", err)
	}
	unmountLazily(t, at)
	mountDisk(t, disk, disks.Ext4, at)
	fixture.Eventually(t, "the first disk is back", func() bool {
		_, err := d.set.ByID(d.volume.ID.Pool())
		return err == nil
	})
}

func TestPoolUnderAnotherMountIsGivenUp(t *testing.T) {
	disk, at := disks.New(t, disks.Ext4, 0), t.TempDir()
	d := newDisplaceable(t, at)
	mountDisk(t, disk, disks.Ext4, at)
	d.wantNoPromise(t)
	d.leave()
	fixture.Eventually(t, "the pool on top is open", func() bool {
		p, err := d.set.ByName("p")
		return err == nil && p.ID() != d.pool.ID()
	})
	unmountLazily(t, at)
	d.wantBack(t)
}

func TestPoolWhoseDirectoryIsMovedIsGivenUpAndNotMadeAnew(t *testing.T) {
	at := filepath.Join(t.TempDir(), "pool")
	d := newDisplaceable(t, at)
	if err := os.Rename(at, at+".moved"); err != nil {
		t.Fatal(err)
	}
	d.wantGivenUp(t)
	if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pool's directory was made anew: %v", err)
	}
	if err := os.Rename(at+".moved", at); err != nil {
		t.Fatal(err)
	}
	d.wantBack(t)
}

func TestPoolIsClosedAfterTheCallsThatMayUseIt(t *testing.T) {
	at := filepath.Join(t.TempDir(), "pool")
	d := newDisplaceable(t, at)
	leave := d.set.calls.enter()
	if err := os.Rename(at, at+".moved"); err != nil {
		t.Fatal(err)
	}
	d.wantGivenUp(t)
	v, err := d.pool.Get(d.volume.ID)
	if err != nil {
		t.Fatal(err)
	}
	data, err := v.Data()
	if err != nil {
		t.Fatalf("a call that is under way cannot use the pool any more: %v", err)
	}
	data.Close()
	leave()
	if err := os.Rename(at+".moved", at); err != nil {
		t.Fatal(err)
	}
	d.wantBack(t)
}

func TestShutdownDoesNotWaitForACallThatUsesAPoolWithoutItsDisk(t *testing.T) {
	at := filepath.Join(t.TempDir(), "pool")
	s := newPools(t, config.NewPool("p", at))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	fixture.Eventually(t, "the pool is open", func() bool { return s.notReady() == nil })
	leave := s.calls.enter() // a call that hangs
	defer leave()
	if err := os.Rename(at, at+".moved"); err != nil {
		t.Fatal(err)
	}
	fixture.Eventually(t, "the pool is given up", func() bool { return s.notReady() != nil })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
