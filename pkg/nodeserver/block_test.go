package nodeserver

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// newBlockNode returns a node that has one raw block volume of the smallest size.
func newBlockNode(t *testing.T) *imageNode {
	t.Helper()
	spec := volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Backing:    volume.ImageBacking,
		Allocation: volume.Sparse,
	}
	n := newImageNode(t, spec)
	t.Cleanup(func() { // runs before newImageNode checks that no device is left
		unmountBelow(t, n.KubeletDir)
		for _, access := range []loopdev.Access{loopdev.ReadWrite, loopdev.ReadOnly} {
			n.detach(access)
		}
	})
	return n
}

// detach detaches the volume's loop device, as an operator or a reboot would.
func (n *imageNode) detach(access loopdev.Access) {
	n.t.Helper()
	image, err := volumeOf(n.t, n.pool, n.id).Data()
	fixture.Must(n.t, err)
	defer image.Close()
	d, err := loopdev.Find(image, access)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	fixture.Must(n.t, err)
	defer d.Close()
	fixture.Must(n.t, d.Detach())
}

func blockCapability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: multiWriter},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

func (n *imageNode) blockRequest(pod string) *csi.NodePublishVolumeRequest {
	n.t.Helper()
	req := n.publishRequest(n.id, pod)
	req.VolumeCapability = blockCapability()
	return req
}

func (n *imageNode) publishBlock(pod string) error {
	n.t.Helper()
	return n.publish(n.t, n.blockRequest(pod))
}

func (n *imageNode) publishBlockReadOnly(pod string) error {
	n.t.Helper()
	req := n.blockRequest(pod)
	req.Readonly = true
	return n.publish(n.t, req)
}

func (n *imageNode) stageBlock() error {
	n.t.Helper()
	_, err := n.NodeStageVolume(n.t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: n.id.String(), StagingTargetPath: n.stagingPath(), VolumeCapability: blockCapability(),
	})
	return err
}

// deviceSize returns a device's size, found by a seek to its end, as programs do.
func deviceSize(t *testing.T, f *os.File) int64 {
	t.Helper()
	end, err := f.Seek(0, io.SeekEnd)
	fixture.Must(t, err)
	return end
}

func openDevice(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	fixture.Must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestBlockVolumeIsOneDeviceOfExactlyItsSizeHoweverManyPods(t *testing.T) {
	n := newBlockNode(t)
	for range 2 { // the second calls are retries
		fixture.Must(t, n.stageBlock())
		fixture.Must(t, n.publishBlock("a"))
		fixture.Must(t, n.publishBlock("b"))
	}
	n.wantOneDevice()
	a, b := openDevice(t, n.target("a")), openDevice(t, n.target("b"))
	if got := deviceSize(t, a); got != n.capacity() {
		t.Errorf("the device has %d bytes, the volume %d", got, n.capacity())
	}
	block := make([]byte, n.capacity())
	copy(block[len(block)-8:], "precious")
	_, err := a.WriteAt(block, 0)
	fixture.Must(t, err)
	fixture.Must(t, a.Sync())
	got := make([]byte, 8)
	if _, err := b.ReadAt(got, n.capacity()-8); string(got) != "precious" || err != nil {
		t.Errorf("the other pod reads %q, %v", got, err)
	}
	fixture.Must(t, errors.Join(a.Close(), b.Close()))
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	n.wantOneDevice()
	for range 2 {
		fixture.Must(t, n.unpublish(t, n.id, "b"))
		n.wantDetached(n.id)
		fixture.Must(t, n.unstage())
	}
	if entries, err := os.ReadDir(n.KubeletDir); len(entries) != 1 || err != nil {
		t.Errorf("kubelet's directory has %v, %v, want only the staging path", entries, err)
	}
	n.wantDetached(n.id)
	fixture.Must(t, n.checkDetached(n.t, n.id))
}

func TestBlockVolumeKeepsItsContentOverAReboot(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	f := openDevice(t, n.target("a"))
	_, err := f.WriteAt([]byte("precious"), 0)
	fixture.Must(t, errors.Join(err, f.Sync(), f.Close()))
	unmountBelow(t, n.KubeletDir)
	n.detach(loopdev.ReadWrite)
	n.wantDetached(n.id)
	n.restart(t)
	fixture.Must(t, n.stageBlock())
	fixture.Must(t, n.publishBlock("a")) // the target is still there, as an empty file
	got := make([]byte, 8)
	if _, err := openDevice(t, n.target("a")).ReadAt(got, 0); string(got) != "precious" || err != nil {
		t.Errorf("the device has %q, %v", got, err)
	}
}

// A read-only mount of a device's node does not make the device read-only. So the pod needs a
// device that is read-only itself.
func TestReadOnlyBlockVolumeCannotBeWrittenTo(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlockReadOnly("reader"))
	wantUnwritable(t, n, "reader")
	fixture.Must(t, n.publishBlock("writer"))
	wantUnwritable(t, n, "reader")
	if got := n.devices(n.id); len(got) != 2 {
		t.Errorf("the image is on %q, want a device to write and one to read", got)
	}
	f := openDevice(t, n.target("writer"))
	_, err := f.WriteAt([]byte("precious"), 0)
	fixture.Must(t, errors.Join(err, f.Sync(), f.Close()))
	reader, err := os.Open(n.target("reader"))
	fixture.Must(t, err)
	got := make([]byte, 8)
	// the device's cache may have old blocks
	fixture.Must(t, unix.IoctlSetInt(int(reader.Fd()), unix.BLKFLSBUF, 0))
	if _, err := reader.ReadAt(got, 0); string(got) != "precious" || err != nil {
		t.Errorf("the reader has %q, %v", got, err)
	}
	fixture.Must(t, reader.Close())
	fixture.Must(t, n.unpublish(t, n.id, "writer"))
	n.wantOneDevice()
	fixture.Must(t, n.unpublish(t, n.id, "reader"))
	n.wantDetached(n.id)
}

func wantUnwritable(t *testing.T, n *imageNode, pod string) {
	t.Helper()
	f, err := os.OpenFile(n.target(pod), os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("harm"), 0)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		t.Error("a read-only device was written to")
	}
	image, err := os.Open(filepath.Join(filepath.Dir(n.KubeletDir), "pool", "volumes", "v", "data"))
	fixture.Must(t, err)
	defer image.Close()
	got := make([]byte, 4)
	if _, err := image.ReadAt(got, 0); string(got) == "harm" || err != nil {
		t.Errorf("the image begins with %q, %v", got, err)
	}
}

func TestTargetOfABlockVolumeIsNotMadeReadOnlyOrWritableUnderItsPod(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	wantCode(t, n.publishBlockReadOnly("a"), codes.AlreadyExists)
	n.wantOneDevice()
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	fixture.Must(t, n.publishBlockReadOnly("a"))
	wantCode(t, n.publishBlock("a"), codes.AlreadyExists)
	n.wantOneDevice()
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	n.wantDetached(n.id)
}

func TestBlockAndFilesystemAreNeverMixedUp(t *testing.T) {
	n := newBlockNode(t)
	wantCode(t, n.stage(), codes.InvalidArgument)
	wantCode(t, n.publishAt("a"), codes.InvalidArgument)
	for _, spec := range []volume.Spec{
		imageSpec(volume.Ext4), {Type: volume.DirectoryOrCreate, Mode: 0o755},
	} {
		n.id = n.createImage("mounted-"+string(spec.FSType)+"x", spec)
		wantCode(t, n.stageBlock(), codes.InvalidArgument)
		wantCode(t, n.publishBlock("a"), codes.InvalidArgument)
	}
	if got := mountsBelow(t, n.KubeletDir); len(got) > 0 {
		t.Errorf("mounted are %q", got)
	}
}

func TestBlockVolumeGrowsUnderItsPods(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	fixture.Must(t, n.publishBlockReadOnly("b"))
	a := openDevice(t, n.target("a"))
	b, err := os.Open(n.target("b"))
	fixture.Must(t, err)
	defer b.Close()
	for range 2 {
		resp, err := n.expand(mib+1, "")
		fixture.Must(t, err)
		want := int64(mib + volume.ImageBlockSize)
		if resp.GetCapacityBytes() != want || deviceSize(t, a) != want || deviceSize(t, b) != want {
			t.Errorf("the volume has %d bytes, the devices %d and %d, want %d", resp.GetCapacityBytes(),
				deviceSize(t, a), deviceSize(t, b), want)
		}
	}
}

func TestStatsOfABlockVolumeAreItsSize(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	// Kubelet asks for the stats at a bind mount that it made itself (MapBlockVolume in
	// pkg/volume/util/volumepathhandler).
	fixture.Must(t, os.WriteFile(n.target("kubelet's"), nil, 0o600))
	fixture.Must(t, unix.Mount(n.target("a"), n.target("kubelet's"), "", unix.MS_BIND, ""))
	for _, name := range []string{"a", "kubelet's"} {
		req := &csi.NodeGetVolumeStatsRequest{VolumeId: n.id.String(), VolumePath: n.target(name)}
		resp, err := n.NodeGetVolumeStats(t.Context(), req)
		fixture.Must(t, err)
		u := resp.GetUsage()
		if len(u) != 1 || u[0].GetUnit() != csi.VolumeUsage_BYTES || u[0].GetTotal() != n.capacity() ||
			u[0].GetUsed() != 0 {
			t.Errorf("usage at %s is %v, want %d bytes in total", name, u, n.capacity())
		}
		fixture.Must(t, unix.Unmount(n.target(name), 0))
		_, err = n.NodeGetVolumeStats(t.Context(), req)
		wantCode(t, err, codes.NotFound)
	}
}

// A pod with CAP_MKNOD can make a device node, and kubelet mounts the node as a subPath.
func TestNodeThatAPodHasMadeIsNoPublication(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	device := n.devices(n.id)[0]
	var st unix.Stat_t
	fixture.Must(t, unix.Stat(device, &st))
	forged := filepath.Join(t.TempDir(), filepath.Base(device))
	//nolint:gosec // a device's number
	fixture.Must(t, unix.Mknod(forged, unix.S_IFBLK|0o600, int(st.Rdev)))
	fixture.Must(t, os.WriteFile(n.target("forged"), nil, 0o600))
	fixture.Must(t, unix.Mount(forged, n.target("forged"), "", unix.MS_BIND, ""))
	n.restart(t)
	if got, want := n.Publications.Targets(
		n.id.String(),
	), parseTarget(t, n.node, "a"); len(got) != 1 ||
		got[0] != want {
		t.Errorf("published at %v, want %v", got, want)
	}
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	n.wantDetached(n.id)
}

func TestPublishedBlockVolumeIsKnownAfterARestartAndNotDeleted(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	n.restart(t)
	fixture.Must(t, staging.Reconcile(t.Context(), n.pool, n.Limiter, n.Publications.Targets))
	n.wantOneDevice()
	if id, known := n.Publications.at(parseTarget(t, n.node, "a")); !known || id != n.id.String() {
		t.Errorf("after a restart the target belongs to %q (known: %t)", id, known)
	}
	exclusive := n.blockRequest("b")
	exclusive.VolumeCapability.AccessMode.Mode = singleWriter
	wantCode(t, n.publish(t, exclusive), codes.FailedPrecondition)
	n.wantOneDevice()
	wantCode(t, n.checkDetached(n.t, n.id), codes.FailedPrecondition)
	n.Publications = NewPublications() // as after a start that has not opened the pool
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	n.wantDetached(n.id)
}

func TestDeviceThatACrashLeftIsDetachedAtTheStart(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	fixture.Must(t, unix.Unmount(n.target("a"), 0))
	n.restart(t)
	fixture.Must(t, staging.Reconcile(t.Context(), n.pool, n.Limiter, n.Publications.Targets))
	n.wantDetached(n.id)
}

func TestDeviceThatSomebodyHeldOpenIsKeptForTheNextPod(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	holder, err := os.Open(n.devices(n.id)[0])
	fixture.Must(t, err)
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	n.wantOneDevice()
	fixture.Must(t, n.publishBlock("b"))
	fixture.Must(t, holder.Close())
	n.wantOneDevice()
	if got := deviceSize(t, openDevice(t, n.target("b"))); got != n.capacity() {
		t.Errorf("the device has %d bytes", got)
	}
}
