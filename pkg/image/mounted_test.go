package image_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestVolumeOfADeadDiskCanBeUnstaged(t *testing.T) {
	disk := disks.New(t, disks.XFS, 0)
	// no other package's test, at the same time, has one of that name
	name, err := volume.ParseName("staged-on-a-dead-disk")
	must(t, err)
	id := volume.NewID("0123456789ab", name)
	must(t, os.MkdirAll(filepath.Join(disk.Dir, "volumes", id.Dir()), 0o700))
	f, err := os.Create(filepath.Join(disk.Dir, "volumes", id.Dir(), "data"))
	must(t, err)
	must(t, f.Truncate(volume.Ext4.MinimumBytes()))
	at := mountImage(t, f)
	must(t, f.Close())
	disk.Shutdown(t)
	if !image.MayShow(id, at) {
		t.Error("the target is said not to show the volume")
	}
	for range 2 {
		must(t, image.Unmount(id, at))
	}
	if mounted, err := mount.Mounted(at); mounted || err != nil {
		t.Errorf("it is still mounted (%v)", err)
	}
}

// mountImage makes an ext4 on an image, and mounts it at a target.
func mountImage(t *testing.T, f *os.File) mount.Target {
	t.Helper()
	base := t.TempDir()
	path := filepath.Join(base, "staging")
	must(t, os.Mkdir(path, 0o700))
	at, err := mount.ParseTarget(base, path)
	must(t, err)
	device, err := loopdev.Attach(f, loopdev.Options{})
	must(t, err)
	defer device.Close()
	dir, err := os.Open(path)
	must(t, err)
	defer dir.Close()
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	must(
		t,
		filesystem.Make(
			device.Path(),
			dir,
			volume.Spec{Backing: volume.ImageBacking, FSType: volume.Ext4},
		),
	)
	return at
}
