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

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// mortalNode has its pool in a directory of a disk that can die, or of a filesystem on that disk.
type mortalNode struct {
	imageNode
	disk disks.Disk
	dir  string
}

// newMortalNode is one whose pool is on that filesystem; empty is the disk's own.
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
	must(t, os.Mkdir(n.target("staging"), 0o750))
	// No other package's test, at the same time, has a volume of that name: what a dead disk's
	// device has is told by the end of its path.
	n.id = n.createImage(fmt.Sprintf("mortal-%d", os.Getpid()), spec)
	return n
}

// onEachDeath runs a test for a pool's filesystem that has died itself, and for each on a disk that
// has died.
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
	must(n.t, err)
	for _, number := range numbers {
		if path, err := loopdev.BackingPath(number); err == nil && strings.HasPrefix(path, n.dir+"/") {
			images = append(images, path)
		}
	}
	return images
}

func TestBlockVolumeOfADeadDiskIsUnpublishedAndItsDevicesGo(t *testing.T) {
	onEachDeath(t, blockSpec(), func(n *mortalNode) {
		must(n.t, n.stageBlock())
		must(n.t, n.publishBlock("a"))
		must(n.t, n.publishBlock("b"))
		must(n.t, n.publishBlockReadOnly("c"))
		f, err := os.OpenFile(n.target("a"), os.O_RDWR, 0)
		must(n.t, err)
		_, err = f.WriteAt([]byte("what is not written back yet"), 0)
		must(n.t, err)
		n.disk.Shutdown(n.t)
		if err := errors.Join(f.Sync(), f.Close()); !errors.Is(err, unix.EIO) {
			n.t.Errorf("the pod's data is said to be written: %v", err)
		}
		must(n.t, unix.Unmount(n.target("b"), 0)) // as by a driver that was killed then
		for _, pod := range []string{"a", "b", "c"} {
			for range 2 {
				must(n.t, n.unpublish(n.t, n.id, pod))
			}
		}
		for range 2 {
			must(n.t, n.unstage())
		}
		n.wantNoneAttached()
	})
}

func TestDeviceOfADeadDiskThatAKilledDriverLeftGoesWhenItsVolumeIsUnstaged(t *testing.T) {
	onEachDeath(t, blockSpec(), func(n *mortalNode) {
		must(n.t, n.publishBlock("a"))
		n.disk.Shutdown(n.t)
		must(n.t, unix.Unmount(n.target("a"), 0))
		must(n.t, n.unpublish(n.t, n.id, "a"))
		must(n.t, n.unstage())
		n.wantNoneAttached()
	})
}

func TestImageOfADeadDiskIsUnpublishedAndUnstaged(t *testing.T) {
	for _, fsType := range volume.FSTypes() {
		t.Run(string(fsType), func(t *testing.T) {
			onEachDeath(t, imageSpec(fsType), func(n *mortalNode) {
				n.stageAndPublish("a")
				// not written back yet
				must(n.t, os.WriteFile(n.target("a/file"), make([]byte, mib), 0o600))
				n.disk.Shutdown(n.t)
				n.takeDown("a")
				must(n.t, n.unstage())
				n.wantNoneAttached()
			})
		})
	}
}

// noPools is a driver that was started again when the disk was dead.
type noPools struct{}

func (noPools) ByID(volume.PoolID) (*pool.Pool, error) { return nil, volume.ErrUnavailable }

func (noPools) ByName(string) (*pool.Pool, error) { return nil, volume.ErrUnavailable }

func (noPools) Open() []*pool.Pool { return nil }

// restartWithout forgets everything, and opens no pool.
func (n *mortalNode) restartWithout() {
	n.Publications, n.Pools = NewPublications(), noPools{}
}

// A dead XFS does not even say that it is mounted.
func TestVolumeOfADeadDiskIsUnpublishedByADriverThatWasStartedAfterIt(t *testing.T) {
	for _, kind := range volume.ManagedTypes() {
		t.Run(string(kind), func(t *testing.T) {
			onEachDeath(t, blockSpec(), func(n *mortalNode) {
				id, other := n.create(n.t, "v", kind), n.create(n.t, "w", kind)
				must(n.t, n.publish(n.t, n.publishRequest(id, "a")))
				must(n.t, n.publish(n.t, n.publishRequest(other, "b")))
				n.disk.Shutdown(n.t)
				n.restartWithout()
				wantCode(n.t, n.unpublish(n.t, other, "a"), codes.FailedPrecondition)
				for range 2 {
					must(n.t, n.unpublish(n.t, id, "a"))
					must(n.t, n.unpublish(n.t, other, "b"))
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
				must(n.t, os.WriteFile(n.target("a/file"), make([]byte, mib), 0o600))
				root, err := os.Open(n.target("a"))
				must(n.t, err)
				n.disk.Shutdown(n.t)
				// what the kernel does by itself, sooner or later; some filesystems keep the error
				// for fsync(2)
				_ = unix.Syncfs(int(root.Fd()))
				must(n.t, root.Close())
				n.restartWithout()
				for range 2 {
					n.takeDown("a")
				}
				n.wantNoneAttached()
			})
		})
	}
}
