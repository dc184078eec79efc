package nodeserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// mortalNode is a node whose disk can die. Its pool is on the disk's filesystem, or on another
// filesystem that is in a file on the disk.
type mortalNode struct {
	imageNode
	disk disks.Disk
	dir  string
}

// newMortalNode returns a node whose pool is on that kind of filesystem. If poolOn is empty, the
// pool is on the disk's own filesystem.
func newMortalNode(t *testing.T, poolOn string, spec volume.Spec) *mortalNode {
	t.Helper()
	disk := disks.New(t, disks.XFS, 2<<30)
	dir := disk.Dir
	if poolOn != "" {
		dir = disks.New(t, poolOn, 0, disks.On(disk)).Dir
	}
	n := &mortalNode{
		imageNode: imageNode{node: newNodeWith(t, pool.Options{Path: filepath.Join(dir, "pool")}), t: t},
		disk:      disk,
		dir:       dir,
	}
	fixture.Must(t, os.Mkdir(n.target("staging"), 0o750))
	// The name must be unique among all tests that run now: the driver recognises the device of a dead
	// disk by the end of its file's path.
	n.id = n.createImage(fmt.Sprintf("mortal-%d", os.Getpid()), spec)
	return n
}

// onEachDeath runs a test for a pool whose own filesystem dies, and for each kind of filesystem on
// a disk that dies.
func onEachDeath(t *testing.T, spec volume.Spec, test func(n *mortalNode)) {
	t.Helper()
	t.Run("filesystem", func(t *testing.T) { test(newMortalNode(t, "", spec)) })
	for _, fstype := range disks.Types() {
		t.Run("disk of "+fstype, func(t *testing.T) { test(newMortalNode(t, fstype, spec)) })
	}
}

func blockSpec() volume.Spec {
	return volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Backing:    volume.ImageBacking,
		Allocation: volume.Sparse,
	}
}

// wantNoneAttached waits until no image of the node is on a device.
func (n *mortalNode) wantNoneAttached() {
	n.t.Helper()
	fixture.Eventually(n.t, "no image of the node is on a device", func() bool {
		return len(n.attached()) == 0
	}, func() any { return n.attached() })
}

// attached lists the images of the node that are on a device. A process that looks at all devices,
// such as another test's driver, holds each of them for a moment.
func (n *mortalNode) attached() (images []string) {
	n.t.Helper()
	numbers, err := loopdev.Attached()
	fixture.Must(n.t, err)
	for _, number := range numbers {
		if path, err := loopdev.BackingPath(number); err == nil && strings.HasPrefix(path, n.dir+"/") {
			images = append(images, path)
		}
	}
	return images
}

func TestBlockVolumeOfADeadDiskIsUnpublishedAndItsDevicesGo(t *testing.T) {
	onEachDeath(t, blockSpec(), func(n *mortalNode) {
		fixture.Must(n.t, n.stageBlock())
		fixture.Must(n.t, n.publishBlock("a"))
		fixture.Must(n.t, n.publishBlock("b"))
		fixture.Must(n.t, n.publishBlockReadOnly("c"))
		f, err := os.OpenFile(n.target("a"), os.O_RDWR, 0)
		fixture.Must(n.t, err)
		_, err = f.WriteAt([]byte("what is not written back yet"), 0)
		fixture.Must(n.t, err)
		n.disk.Shutdown(n.t)
		if err := errors.Join(f.Sync(), f.Close()); !errors.Is(err, unix.EIO) {
			n.t.Errorf("fsync on the dead disk: %v, want EIO", err)
		}
		// A driver that was killed may have done only this.
		fixture.Must(n.t, unix.Unmount(n.target("b"), 0))
		for _, pod := range []string{"a", "b", "c"} {
			for range 2 {
				fixture.Must(n.t, n.unpublish(n.t, n.id, pod))
			}
		}
		for range 2 {
			fixture.Must(n.t, n.unstage())
		}
		n.wantNoneAttached()
	})
}

func TestDeviceOfADeadDiskThatAKilledDriverLeftGoesWhenItsVolumeIsUnstaged(t *testing.T) {
	onEachDeath(t, blockSpec(), func(n *mortalNode) {
		fixture.Must(n.t, n.publishBlock("a"))
		n.disk.Shutdown(n.t)
		fixture.Must(n.t, unix.Unmount(n.target("a"), 0))
		fixture.Must(n.t, n.unpublish(n.t, n.id, "a"))
		fixture.Must(n.t, n.unstage())
		n.wantNoneAttached()
	})
}

func TestImageOfADeadDiskIsUnpublishedAndUnstaged(t *testing.T) {
	for _, fsType := range volume.FSTypes() {
		t.Run(string(fsType), func(t *testing.T) {
			onEachDeath(t, imageSpec(fsType), func(n *mortalNode) {
				n.stageAndPublish("a")
				// The kernel has not written these bytes back when the disk dies.
				fixture.Must(n.t, os.WriteFile(n.target("a/file"), make([]byte, mib), 0o600))
				n.disk.Shutdown(n.t)
				n.takeDown("a")
				fixture.Must(n.t, n.unstage())
				n.wantNoneAttached()
			})
		})
	}
}

// noPools is what a driver has that was restarted after its disk had died.
type noPools struct{}

func (noPools) ByID(volume.PoolID) (*pool.Pool, error) { return nil, volume.ErrUnavailable }

func (noPools) ByName(string) (*pool.Pool, error) { return nil, volume.ErrUnavailable }

func (noPools) Open() []*pool.Pool { return nil }

func (noPools) Known() []health.Pool {
	return []health.Pool{{Name: "p", Reason: volume.ReasonDiskFailed}}
}

func (p noPools) Candidates(volume.PoolID) ([]health.Pool, error) { return p.Known(), nil }

func (noPools) Use() func() { return func() {} }

// restartWithout restarts the driver, which cannot open its pool.
func (n *mortalNode) restartWithout() {
	n.Publications, n.Pools = NewPublications(), noPools{}
}

// statx(2) fails on a dead XFS, and so cannot tell the driver that a volume is mounted there.
func TestVolumeOfADeadDiskIsUnpublishedByADriverThatWasStartedAfterIt(t *testing.T) {
	for _, kind := range volume.ManagedTypes() {
		t.Run(string(kind), func(t *testing.T) {
			onEachDeath(t, blockSpec(), func(n *mortalNode) {
				id, other := n.create(n.t, "v", kind), n.create(n.t, "w", kind)
				fixture.Must(n.t, n.publish(n.t, n.publishRequest(id, "a")))
				fixture.Must(n.t, n.publish(n.t, n.publishRequest(other, "b")))
				n.disk.Shutdown(n.t)
				n.restartWithout()
				wantCode(n.t, n.unpublish(n.t, other, "a"), codes.FailedPrecondition)
				for range 2 {
					fixture.Must(n.t, n.unpublish(n.t, id, "a"))
					fixture.Must(n.t, n.unpublish(n.t, other, "b"))
				}
			})
		})
	}
}

func TestImageWhoseOwnFilesystemHasDiedIsUnpublishedAndUnstaged(t *testing.T) {
	for _, fsType := range volume.FSTypes() {
		t.Run(string(fsType), func(t *testing.T) {
			onEachDeath(t, imageSpec(fsType), func(n *mortalNode) {
				n.stageAndPublish("a")
				fixture.Must(n.t, os.WriteFile(n.target("a/file"), make([]byte, mib), 0o600))
				root, err := os.Open(n.target("a"))
				fixture.Must(n.t, err)
				n.disk.Shutdown(n.t)
				// The kernel writes back by itself some time later. Some filesystems keep the error for
				// fsync(2).
				_ = unix.Syncfs(int(root.Fd()))
				fixture.Must(n.t, root.Close())
				n.restartWithout()
				for range 2 {
					n.takeDown("a")
				}
				n.wantNoneAttached()
			})
		})
	}
}
