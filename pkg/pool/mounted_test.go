package pool

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// mountOn mounts an empty filesystem on a directory, until the end of the test or unmount.
func mountOn(t *testing.T, dir string) (unmount func()) {
	t.Helper()
	fixture.Must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return func() { fixture.Must(t, unix.Unmount(dir, unix.MNT_DETACH)) }
}

// What an operator has mounted on a directory of a volume is neither shown, copied nor deleted, and
// the volume is not called damaged.
func TestVolumeWithAMountOnItIsLeftAloneUntilItIsUnmounted(t *testing.T) {
	disks.RequireRoot(t)
	p := newPool(t)
	v := create(t, p, "v", 1<<20)
	for _, at := range []string{"v", "v/data"} {
		unmount := mountOn(t, filepath.Join(p.opts.Path, "volumes", at))
		found, err := p.Get(v.ID)
		fixture.Must(t, err)
		_, err = found.Data()
		wantMountNamed(t, at+": data", err, unix.EXDEV)
		_, err = p.CreateSnapshot(t.Context(), volume.SnapshotRequest{
			Name: request(t, "s", 1).Name, Source: v.ID,
		})
		wantMountNamed(t, at+": snapshot", err, unix.EXDEV)
		if at == "v" {
			_, err = p.Expand(t.Context(), v.ID, volume.SizeRange{Required: 2 << 20})
			wantMountNamed(t, at+": expand", err, unix.EXDEV)
			wantMountNamed(t, at+": delete", p.Delete(t.Context(), v.ID), volume.ErrInUse)
		}
		unmount()
		data, err := found.Data()
		fixture.Must(t, err)
		data.Close()
	}
	remove(t, p, v.ID)
	waitPurged(t, p)
}

func wantMountNamed(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// Behind a mount there may be volumes: a pool that does not see them would make them again.
func TestPoolIsNotOpenedWhileSomethingIsMountedOnItsDirectories(t *testing.T) {
	disks.RequireRoot(t)
	p := newPool(t)
	v := create(t, p, "v", 1<<20)
	closePool(t, p)
	for _, at := range []string{"volumes", "snapshots", "tmp", "trash"} {
		unmount := mountOn(t, filepath.Join(p.opts.Path, at))
		err := refused(t, p.opts)
		if !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), at) ||
			!strings.Contains(err.Error(), "unmount it") {
			t.Errorf("%s: %v", at, err)
		}
		unmount()
	}
	p = openPool(t, p.opts)
	if _, err := p.Get(v.ID); err != nil {
		t.Error(err)
	}
}
