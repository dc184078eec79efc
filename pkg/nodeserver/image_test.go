package nodeserver

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const mib = 1 << 20

// imageNode is a node with one image volume and a staging path.
type imageNode struct {
	*node
	t  *testing.T
	id volume.ID
	// stagingName is the volume's staging path; empty is "staging".
	stagingName string
}

func (n *imageNode) stagingPath() string { return n.target(cmp.Or(n.stagingName, "staging")) }

func newImageNode(t *testing.T, spec volume.Spec) *imageNode {
	t.Helper()
	return newImageNodeOn(t, spec, "")
}

// newImageNodeOn returns a node whose pool is in that directory.
func newImageNodeOn(t *testing.T, spec volume.Spec, dir string) *imageNode {
	t.Helper()
	disks.RequireMachineRoot(t) // images need loop devices
	n := &imageNode{node: newNodeWith(t, pool.Options{Path: dir}), t: t}
	fixture.Must(t, os.Mkdir(n.target("staging"), 0o750))
	n.id = n.createImage("v", spec)
	t.Cleanup(func() { // runs before the node's own cleanup, which closes the pool
		unmountBelow(t, n.KubeletDir)
		n.wantDetached(n.id)
	})
	return n
}

func imageSpec(fsType volume.FSType) volume.Spec {
	return volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Mode:       0o755,
		Backing:    volume.ImageBacking,
		FSType:     fsType,
		Allocation: volume.Sparse,
	}
}

func (n *imageNode) createImage(name string, spec volume.Spec) volume.ID {
	n.t.Helper()
	parsed, err := volume.ParseName(name)
	fixture.Must(n.t, err)
	v, err := n.pool.Create(n.t.Context(),
		volume.CreateRequest{Name: parsed, Size: volume.SizeRange{Required: 1}, Spec: spec})
	fixture.Must(n.t, err)
	return v.ID
}

// onEachFilesystem runs a test for an image of each kind.
func onEachFilesystem(t *testing.T, test func(n *imageNode)) {
	t.Helper()
	for _, fsType := range volume.FSTypes() {
		t.Run(string(fsType), func(t *testing.T) { test(newImageNode(t, imageSpec(fsType))) })
	}
}

func (n *imageNode) stage() error {
	n.t.Helper()
	_, err := n.NodeStageVolume(n.t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId:          n.id.String(),
		StagingTargetPath: n.stagingPath(),
		VolumeCapability:  capabilityOf(multiWriter),
	})
	return err
}

func (n *imageNode) unstage() error {
	n.t.Helper()
	_, err := n.NodeUnstageVolume(n.t.Context(), &csi.NodeUnstageVolumeRequest{
		VolumeId: n.id.String(), StagingTargetPath: n.stagingPath(),
	})
	return err
}

func (n *imageNode) publishAt(pod string) error {
	n.t.Helper()
	req := n.publishRequest(n.id, pod)
	req.StagingTargetPath = n.stagingPath()
	return n.publish(n.t, req)
}

// stageAndPublish makes the volume visible at those targets.
func (n *imageNode) stageAndPublish(pods ...string) {
	n.t.Helper()
	fixture.Must(n.t, n.stage())
	for _, pod := range pods {
		fixture.Must(n.t, n.publishAt(pod))
	}
}

func (n *imageNode) takeDown(pods ...string) {
	n.t.Helper()
	for _, pod := range pods {
		fixture.Must(n.t, n.unpublish(n.t, n.id, pod))
	}
	fixture.Must(n.t, n.unstage())
}

// devices are the loop devices of a volume's image.
func (n *imageNode) devices(id volume.ID) (paths []string) {
	n.t.Helper()
	image, err := volumeOf(n.t, n.pool, id).Data()
	fixture.Must(n.t, err)
	defer image.Close()
	want, err := openat.IdentityOf(image)
	fixture.Must(n.t, err)
	numbers, err := loopdev.Attached()
	fixture.Must(n.t, err)
	for _, number := range numbers {
		d, err := loopdev.Open(number)
		if errors.Is(err, os.ErrNotExist) || loopdev.IsOfDeadDisk(err) {
			// The device belonged to another test, and is gone, or that test let its disk die. No disk of
			// this test has died.
			continue
		}
		fixture.Must(n.t, err)
		if d.Backing() == want {
			paths = append(paths, d.Path())
		}
		d.Close()
	}
	return paths
}

// wantDetached waits until the image is on no device. Another process that looks at all devices,
// such as another package's test, may have the image's device open for a moment.
func (n *imageNode) wantDetached(id volume.ID) {
	n.t.Helper()
	fixture.Eventually(n.t, "the image is on no device",
		func() bool { return len(n.devices(id)) == 0 }, func() any { return n.devices(id) })
}

func (n *imageNode) wantOneDevice() {
	n.t.Helper()
	if got := n.devices(n.id); len(got) != 1 {
		n.t.Errorf("the image is on %q, want one device", got)
	}
}

func (n *imageNode) capacity() int64 {
	n.t.Helper()
	v, err := n.pool.Get(n.id)
	fixture.Must(n.t, err)
	return v.CapacityBytes
}

func usageOf(t *testing.T, path string) volume.Usage {
	t.Helper()
	f, err := os.Open(path)
	fixture.Must(t, err)
	defer f.Close()
	u, err := mount.UsageOf(f)
	fixture.Must(t, err)
	return u
}

func TestImageIsADiskOfItsOwnThatPodsShare(t *testing.T) {
	onEachFilesystem(t, func(n *imageNode) {
		for range 2 { // the second calls are retries
			n.stageAndPublish("a", "b")
		}
		n.wantOneDevice()
		if got := mountsBelow(n.t, n.KubeletDir); len(got) != 3 {
			n.t.Errorf("mounted are %q, want the staging path and two targets", got)
		}
		if got, err := os.ReadDir(n.target("a")); len(got) > 0 || err != nil {
			n.t.Errorf("a new volume has %v, %v", got, err)
		}
		if u := usageOf(n.t, n.target("a")); u.TotalBytes > n.capacity() ||
			u.TotalBytes < n.capacity()/2 {
			n.t.Errorf("df shows %d bytes, the volume has %d", u.TotalBytes, n.capacity())
		}
		fixture.Must(n.t, os.WriteFile(n.target("a/file"), []byte("precious"), 0o600))
		wantPrecious(n.t, n.target("b/file"))
		n.takeDown("a", "b")
		n.wantDetached(n.id)

		n.stageAndPublish("c")
		wantPrecious(n.t, n.target("c/file"))
		n.takeDown("c")
		n.wantDetached(n.id)
		fixture.Must(n.t, n.checkDetached(n.t, n.id))
	})
}

// wantPrecious compares a file with what a pod has written.
func wantPrecious(t *testing.T, path string) {
	t.Helper()
	if got, err := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("%s has %q, %v", path, got, err)
	}
}

func TestDataInAnImageHasExactlyItsTypeModeAndOwner(t *testing.T) {
	for _, kind := range volume.ManagedTypes() {
		t.Run(string(kind), func(t *testing.T) {
			spec := imageSpec(volume.Ext4)
			spec.Type, spec.Mode, spec.UID, spec.GID = kind, 0o640, 1001, 1002
			n := newImageNode(t, spec)
			n.stageAndPublish("a")
			var st unix.Stat_t
			fixture.Must(t, unix.Lstat(n.target("a"), &st))
			want := uint32(unix.S_IFDIR | 0o640)
			if kind == volume.FileOrCreate {
				want = unix.S_IFREG | 0o640
			}
			if st.Mode != want || st.Uid != 1001 || st.Gid != 1002 {
				t.Errorf("it has mode %#o and owner %d:%d", st.Mode, st.Uid, st.Gid)
			}
			n.takeDown("a")
		})
	}
}

func TestMountOptionsOfAnImageHoldAtEachTarget(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	n.stageAndPublish("a")
	req := n.publishRequest(n.id, "b")
	req.VolumeCapability = capabilityOf(multiWriter, "noexec")
	req.Readonly = true
	fixture.Must(t, n.publish(t, req))
	const always = unix.ST_NOSUID | unix.ST_NODEV
	for pod, want := range map[string]int64{
		"a": always, "b": always | unix.ST_NOEXEC | unix.ST_RDONLY,
	} {
		var st unix.Statfs_t
		fixture.Must(t, unix.Statfs(n.target(pod), &st))
		if got := st.Flags & (always | unix.ST_NOEXEC | unix.ST_RDONLY); got != want {
			t.Errorf("at %s the flags are %#x, want %#x", pod, got, want)
		}
	}
	if err := os.WriteFile(n.target("b/file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing at the read-only target: %v", err)
	}
	n.takeDown("a", "b")
}

func TestFullImageIsFullAndNothingElseIs(t *testing.T) {
	onEachFilesystem(t, func(n *imageNode) {
		n.stageAndPublish("a")
		f, err := os.Create(n.target("a/file"))
		fixture.Must(n.t, err)
		written := int64(0)
		for content := make([]byte, mib); err == nil; written += mib {
			_, err = f.Write(content)
		}
		f.Close()
		if !errors.Is(err, unix.ENOSPC) || written > n.capacity() {
			n.t.Errorf("after %d bytes in %d: %v, want ENOSPC", written, n.capacity(), err)
		}
		fixture.Must(n.t, os.Remove(n.target("a/file")))
		n.takeDown("a") // the filesystem may need a transaction before freed blocks are usable
		n.stageAndPublish("a")
		fixture.Must(n.t, os.WriteFile(n.target("a/file"), make([]byte, mib), 0o600))
		n.takeDown("a")
	})
}

func TestWhatPodsWriteToAnImageIsNotThrottledOnTheWay(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	throttle := func() string {
		return filepath.Join("/sys/block", filepath.Base(n.devices(n.id)[0]), "queue/wbt_lat_usec")
	}
	fixture.Must(t, n.stage())
	// A new device has a throttle like this one. The next staging usually gets the same device.
	fixture.Must(t, os.WriteFile(throttle(), []byte("2000"), 0))
	fixture.Must(t, n.unstage())
	fixture.Must(t, n.stage())
	if latency, err := os.ReadFile(throttle()); string(latency) != "0\n" || err != nil {
		t.Errorf("the device's throttle is at %s µs (%v)", latency, err)
	}
	fixture.Must(t, n.unstage())
}

func TestStagedImageIsKnownAfterARestartAndNotDeleted(t *testing.T) {
	onEachFilesystem(t, func(n *imageNode) {
		fixture.Must(n.t, n.stage())
		wantCode(n.t, n.checkDetached(n.t, n.id), codes.FailedPrecondition)
		fixture.Must(n.t, n.publishAt("a"))
		n.restart(n.t)
		if id, known := n.Publications.at(parseTarget(n.t, n.node, "a")); !known || id != n.id.String() {
			n.t.Errorf("after a restart the target belongs to %q (known: %t)", id, known)
		}
		if _, known := n.Publications.at(parseTarget(n.t, n.node, "staging")); known {
			n.t.Error("the staging path is taken for a publication")
		}
		wantCode(n.t, n.publishAs(n.t, n.id, "b", singleWriter), codes.FailedPrecondition)
		// CSI spec, NodeGetVolumeStats: "any valid path where volume was previously staged or published"
		for _, path := range []string{n.target("a"), n.stagingPath()} {
			_, err := n.NodeGetVolumeStats(n.t.Context(),
				&csi.NodeGetVolumeStatsRequest{VolumeId: n.id.String(), VolumePath: path})
			fixture.Must(n.t, err)
		}
		wantCode(n.t, n.checkDetached(n.t, n.id), codes.FailedPrecondition)
		n.takeDown("a")
		n.wantDetached(n.id)
		fixture.Must(n.t, n.checkDetached(n.t, n.id))
	})
}

func parseTarget(t *testing.T, n *node, name string) mount.Target {
	t.Helper()
	target, err := mount.ParseTarget(n.KubeletDir, n.target(name))
	fixture.Must(t, err)
	return target
}

func TestImageOfAClosedPoolIsUnpublishedAndUnstaged(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.XFS))
	n.stageAndPublish("a")
	n.Publications = NewPublications() // as after a start that has not opened the pool
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	fixture.Must(t, n.unstage())
}

func TestWhatIsNotTheVolumeIsLeftAlone(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	other := n.createImage("other", imageSpec(volume.Ext4))
	n.stageAndPublish("a")
	n.id, other = other, n.id
	wantCode(t, n.stage(), codes.FailedPrecondition)
	wantCode(t, n.unstage(), codes.FailedPrecondition)
	wantCode(t, n.publishAt("b"), codes.FailedPrecondition)
	n.Publications = NewPublications()
	wantCode(t, n.unpublish(t, n.id, "a"), codes.FailedPrecondition)
	_, err := n.NodeGetVolumeStats(t.Context(),
		&csi.NodeGetVolumeStatsRequest{VolumeId: n.id.String(), VolumePath: n.target("a")})
	wantCode(t, err, codes.NotFound)
	n.id = other
	n.takeDown("a")

	fixture.Must(t, unix.Mount("tmpfs", n.target("staging"), "tmpfs", 0, "size=1m"))
	wantCode(t, n.stage(), codes.FailedPrecondition)
	wantCode(t, n.unstage(), codes.FailedPrecondition)
	fixture.Must(t, unix.Unmount(n.target("staging"), 0))
	fixture.Must(t, n.unstage())
}

func TestImageThatIsNotStagedIsNotPublished(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	wantCode(t, n.publishAt("a"), codes.FailedPrecondition)
	req := n.publishRequest(n.id, "a")
	req.StagingTargetPath = ""
	wantCode(t, n.publish(t, req), codes.FailedPrecondition)
	req.StagingTargetPath = n.target("absent")
	wantCode(t, n.publish(t, req), codes.FailedPrecondition)
}

func TestImageIsNotShownWithAnotherFilesystem(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	n.stageAndPublish()
	const refused = codes.InvalidArgument
	for fsType, want := range map[string]codes.Code{
		"": codes.OK, "ext4": codes.OK, "xfs": refused, "ntfs": refused,
	} {
		req := n.publishRequest(n.id, "a")
		req.GetVolumeCapability().GetMount().FsType = fsType
		wantCode(t, n.publish(t, req), want)
	}
	n.takeDown("a")
}

func TestPodThatOutlivesTheStagingPathKeepsItsDevice(t *testing.T) {
	onEachFilesystem(t, func(n *imageNode) {
		n.stageAndPublish("a")
		fixture.Must(n.t, os.WriteFile(n.target("a/file"), []byte("precious"), 0o600))
		fixture.Must(n.t, n.unstage())
		n.wantOneDevice()
		n.stageAndPublish("b")
		n.wantOneDevice()
		wantPrecious(n.t, n.target("b/file"))
		n.takeDown("a", "b")
	})
}

func TestDamagedImageIsAnErrorAndStaysAsItIs(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	n.stageAndPublish("a")
	fixture.Must(t, os.WriteFile(n.target("a/file"), []byte("precious"), 0o600))
	n.takeDown("a")
	image := filepath.Join(filepath.Dir(n.KubeletDir), "pool", "volumes", "v", "data")
	content, err := os.ReadFile(image)
	fixture.Must(t, err)
	damaged := bytes.Clone(content)
	clear(damaged[1024:2048])
	fixture.Must(t, os.WriteFile(image, damaged, 0o600))
	wantCode(t, n.stage(), codes.Internal)
	if got, err := os.ReadFile(image); !bytes.Equal(got, damaged) {
		t.Errorf("the image was changed (%v)", err)
	}
	fixture.Must(t, os.WriteFile(image, content, 0o600))
	n.stageAndPublish("a")
	wantPrecious(t, n.target("a/file"))
	n.takeDown("a")
	fixture.Must(t, os.Truncate(image, 8*mib))
	wantCode(t, n.stage(), codes.Internal)
}

func TestImageGrowsUnderItsWriter(t *testing.T) {
	for _, fsType := range []volume.FSType{volume.XFS, volume.Btrfs} { // ext4: pkg/image/filesystem
		for _, kind := range volume.ManagedTypes() {
			t.Run(fmt.Sprintf("%s %s", fsType, kind), func(t *testing.T) {
				spec := imageSpec(fsType)
				spec.Type = kind
				n := newImageNode(t, spec)
				n.stageAndPublish("a")
				before, size := usageOf(t, n.target("a")), n.capacity()
				stop := writeAllTheTime(t,
					n.target("a")+map[volume.Type]string{volume.DirectoryOrCreate: "/file"}[kind])
				for range 2 {
					resp, err := n.expand(2*size, n.target("staging"))
					fixture.Must(t, err)
					if resp.GetCapacityBytes() != 2*size {
						t.Errorf("the volume has %d bytes, want %d", resp.GetCapacityBytes(), 2*size)
					}
					wantGrown(t, before, usageOf(t, n.target("a")), size)
				}
				stop()
				// Without a staging path in the request, the filesystem grows at the latest when the volume is
				// staged.
				_, err := n.expand(3*size, "")
				fixture.Must(t, err)
				n.takeDown("a")
				n.stageAndPublish("a")
				wantGrown(t, before, usageOf(t, n.target("a")), 2*size)
				n.takeDown("a")
				_, err = n.expand(4*size, "")
				fixture.Must(t, err)
				n.stageAndPublish("a")
				wantGrown(t, before, usageOf(t, n.target("a")), 3*size)
				n.takeDown("a")
			})
		}
	}
}

func (n *imageNode) expand(size int64, staging string) (*csi.NodeExpandVolumeResponse, error) {
	n.t.Helper()
	return n.NodeExpandVolume(n.t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: n.id.String(), VolumePath: n.target("a"), StagingTargetPath: staging,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size},
	})
}

func wantGrown(t *testing.T, before, after volume.Usage, by int64) {
	t.Helper()
	if got := after.TotalBytes - before.TotalBytes; got < by*9/10 || got > by {
		t.Errorf("the filesystem has grown by %d bytes, want about %d", got, by)
	}
}

// writeAllTheTime overwrites a file until stop.
func writeAllTheTime(t *testing.T, path string) (stop func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	fixture.Must(t, err)
	quit, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		content := bytes.Repeat([]byte("precious"), 8192)
		for {
			if _, err := f.WriteAt(content, 0); err != nil {
				ended <- err
				return
			}
			select { // only after a write: stop may be closed before the first one
			case <-quit:
				ended <- errors.Join(f.Sync(), f.Close())
				return
			default:
			}
		}
	}()
	return func() {
		t.Helper()
		close(quit)
		fixture.Must(t, <-ended)
		if got, err := os.ReadFile(path); err != nil || strings.Count(string(got), "precious") != 8192 {
			t.Errorf("the writer's file has %d bytes, %v", len(got), err)
		}
	}
}

func TestImageOfAPoolInMemoryIsStaged(t *testing.T) {
	for _, allocation := range []volume.Allocation{volume.Sparse, volume.Preallocated} {
		t.Run(string(allocation), func(t *testing.T) {
			disks.RequireMachineRoot(t)
			dir := t.TempDir()
			fixture.Must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256m"))
			t.Cleanup(func() { fixture.Must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
			spec := imageSpec(volume.Ext4)
			spec.Allocation = allocation
			n := newImageNodeOn(t, spec, filepath.Join(dir, "pool"))
			for range 2 {
				n.stageAndPublish("a")
				n.takeDown("a")
			}
		})
	}
}
