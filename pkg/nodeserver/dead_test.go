package nodeserver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// newMortalNode is a node with one volume, on a disk that can die.
func newMortalNode(t *testing.T, spec volume.Spec) (*imageNode, disks.Disk) {
	t.Helper()
	disk := disks.New(t, disks.XFS, 0)
	n := &imageNode{node: newNodeWith(t, pool.Options{Path: filepath.Join(disk.Dir, "pool")}), t: t}
	must(t, os.Mkdir(n.target("staging"), 0o750))
	n.id = n.createImage("v", spec)
	return n, disk
}

// wantNoneAttachedIn looks for devices of any file on a disk.
func wantNoneAttachedIn(t *testing.T, dir string) {
	t.Helper()
	numbers, err := loopdev.Attached()
	must(t, err)
	for _, number := range numbers {
		if path, err := loopdev.BackingPath(number); err == nil && strings.HasPrefix(path, dir) {
			t.Errorf("%s is on device %d still", path, number)
		}
	}
}

func TestBlockVolumeOfADeadDiskIsUnpublishedAndItsDevicesGo(t *testing.T) {
	n, disk := newMortalNode(t, volume.Spec{Type: volume.DirectoryOrCreate, Backing: volume.ImageBacking, Allocation: volume.Sparse})
	must(t, n.stageBlock())
	must(t, n.publishBlock("a"))
	must(t, n.publishBlock("b"))
	must(t, n.publishBlockReadOnly("c"))
	f, err := os.OpenFile(n.target("a"), os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("what is not written back yet"), 0)
	must(t, err)
	disk.Shutdown(t)
	if err := errors.Join(f.Sync(), f.Close()); !errors.Is(err, unix.EIO) {
		t.Errorf("the pod's data is said to be written: %v", err)
	}
	must(t, unix.Unmount(n.target("b"), 0)) // as by a driver that was killed then
	for _, pod := range []string{"a", "b", "c"} {
		for range 2 {
			must(t, n.unpublish(t, n.id, pod))
		}
	}
	for range 2 {
		must(t, n.unstage())
	}
	wantNoneAttachedIn(t, disk.Dir)
}

func TestDeviceOfADeadDiskThatAKilledDriverLeftGoesWhenItsVolumeIsUnstaged(t *testing.T) {
	n, disk := newMortalNode(t, volume.Spec{Type: volume.DirectoryOrCreate, Backing: volume.ImageBacking, Allocation: volume.Sparse})
	must(t, n.publishBlock("a"))
	disk.Shutdown(t)
	must(t, unix.Unmount(n.target("a"), 0))
	must(t, n.unpublish(t, n.id, "a"))
	must(t, n.unstage())
	wantNoneAttachedIn(t, disk.Dir)
}

func TestImageOfADeadDiskIsUnpublishedAndUnstaged(t *testing.T) {
	for _, fsType := range volume.FSTypes() {
		t.Run(string(fsType), func(t *testing.T) {
			n, disk := newMortalNode(t, imageSpec(fsType))
			n.stageAndPublish("a")
			must(t, os.WriteFile(n.target("a/file"), make([]byte, mib), 0o600)) // not written back yet
			disk.Shutdown(t)
			n.takeDown("a")
			must(t, n.unstage())
			wantNoneAttachedIn(t, disk.Dir)
		})
	}
}
