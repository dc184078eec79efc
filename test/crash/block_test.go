package crash

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/pod"
)

// While no driver runs, a pod must not be able to have its device detached. The kernel could give
// the device's number to another file, which may not even be a volume.
func TestPodKeepsItsDeviceAndGetsNoOtherWhileItsDriverIsKilled(t *testing.T) {
	binary := fixture.Build(t)
	disk := disks.New(t, disks.Ext4, 0)
	n := newNode(t, binary, disk.Dir+"/node")
	n.Start()
	id := n.createBlock("v")
	n.Must(n.publishBlock(id, "a"))
	n.Must(writeDevice(n.target("a"), content))
	for range 3 {
		n.Kill()
		pod.Run(t, func() error { return askForDetachment(n.target("a")) })
		somebodyElse := attachSecret(t, n.Path("secret"))
		if got := readDevice(t, n.target("a")); got != content {
			t.Errorf("the pod's device has %q", got)
		}
		somebodyElse.Close()
		n.Start()
		n.Must(n.publishBlock(id, "b"))
		pod.Run(t, func() error { return askForDetachment(n.target("b")) })
		n.Must(n.unpublish(t.Context(), id, n.target("b")))
	}
	n.Must(n.unpublish(t.Context(), id, n.target("a")))
	// A process that looks at all loop devices, such as another test, holds each for a moment.
	n.eventually("the volume is deleted", func() bool { return n.delete(t.Context(), id) == nil })
	n.wantClean(0)
}

// A node that goes takes mounts and processes with it, and a container that plays a node leaves the
// kernel's devices: the driver's, its guard, and kubelet's on it. Nobody unpublishes the volume.
func TestBlockVolumeOfAnUncleanStopIsDeleted(t *testing.T) {
	n := newNode(t, fixture.Build(t), disks.New(t, disks.Ext4, 0).Dir+"/node")
	n.Start()
	id := n.createBlock("v")
	n.Must(n.publishBlock(id, "a"))
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", n.target("a")).Output()
	n.Must(err)
	kubelets := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", kubelets).Run() }) // it should be gone
	n.Kill()
	n.Must(unix.Unmount(n.target("a"), unix.MNT_DETACH))
	n.Must(os.Remove(n.target("a")))
	n.Start()
	n.eventually("the volume is deleted", func() bool { return n.delete(t.Context(), id) == nil })
	n.wantClean(0)
}

func (n *node) createBlock(name string) string {
	n.t.Helper()
	resp, err := n.Controller.CreateVolume(n.t.Context(), &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: volumeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{fixture.BlockCapability()},
	})
	n.Must(err)
	return resp.GetVolume().GetVolumeId()
}

func (n *node) publishBlock(id, name string) error {
	_, err := n.Node.NodePublishVolume(n.t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId:          id,
		TargetPath:        n.target(name),
		StagingTargetPath: n.Path("kubelet", "staging"),
		VolumeCapability:  fixture.BlockCapability(),
	})
	return err
}

// askForDetachment tries each ioctl that could detach a device, several times.
func askForDetachment(node string) error {
	for range 3 {
		f, err := os.OpenFile(node, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = errors.Join(
			unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0),
			unix.IoctlLoopSetStatus64(int(f.Fd()), &unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}),
			f.Close(),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// attachSecret attaches a file that is no volume, as any program of the node may do.
func attachSecret(t *testing.T, path string) *loopdev.Device {
	t.Helper()
	if err := os.WriteFile(
		path,
		bytes.Repeat([]byte("secret!!"), loopdev.BlockSize/8),
		0o600,
	); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := loopdev.Attach(f, loopdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func writeDevice(path, what string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(what)
	return errors.Join(err, f.Sync(), f.Close())
}

func readDevice(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(content))
	if _, err := f.Read(got); err != nil {
		t.Error(err)
	}
	return string(got)
}
