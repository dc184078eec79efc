package nodeserver

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// deletable is the check that DeleteVolume makes.
func (n *imageNode) deletable() error {
	n.t.Helper()
	data, err := volumeOf(n.t, n.pool, n.id).Data()
	fixture.Must(n.t, err)
	defer data.Close()
	return n.CheckUnused(n.t.Context(), n.id, data)
}

// wantHeld wants that the volume cannot be deleted, and that the error has these words.
func (n *imageNode) wantHeld(words ...string) {
	n.t.Helper()
	err := n.deletable()
	wantCode(n.t, err, codes.FailedPrecondition)
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			n.t.Errorf("%v: does not say %q", err, word)
		}
	}
}

// wantDeletable waits until it can be deleted: a program that looks at all devices, as udev, holds
// each of them for a moment.
func (n *imageNode) wantDeletable() {
	n.t.Helper()
	var err error
	fixture.Eventually(n.t, "the volume can be deleted", func() bool {
		err = n.deletable()
		return err == nil
	}, func() any { return err })
	n.wantDetached(n.id)
}

func losetup(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "losetup", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// detachAtEnd detaches a device if the test has not.
func detachAtEnd(t *testing.T, device string) {
	t.Helper()
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
}

// stopUncleanly is a node that goes, with all mounts, and comes back: the kernel keeps the devices.
func (n *imageNode) stopUncleanly(pod string) {
	n.t.Helper()
	fixture.Must(n.t, unix.Unmount(n.target(pod), unix.MNT_DETACH))
	n.restart(n.t)
}

func TestDevicesOfAnUncleanStopDoNotKeepABlockVolumeFromBeingDeleted(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	detachAtEnd(t, losetup(t, "--find", "--show", n.target("a"))) // as kubelet does
	n.stopUncleanly("a")
	n.wantDeletable()
}

func TestPublishedBlockVolumeKeepsKubeletsDevice(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	kubelets := losetup(t, "--find", "--show", n.target("a"))
	detachAtEnd(t, kubelets)
	n.wantHeld(n.target("a"), "delete the pod first")
	if out := losetup(t, "--list", "--noheadings", kubelets); out == "" {
		t.Error("kubelet's device is gone")
	}
	losetup(t, "--detach", kubelets)
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	n.wantDeletable()
}

func TestOperatorsDeviceOnABlockVolumeIsNamedAndLeft(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	own := n.devices(n.id)
	operators := losetup(t, "--find", "--show", own[0])
	detachAtEnd(t, operators)
	n.stopUncleanly("a")
	n.wantHeld(own[0], "losetup --detach "+operators)
	losetup(t, "--detach", operators)
	n.wantDeletable()
}

// start starts a program for the length of the test.
func start(t *testing.T, cmd *exec.Cmd) (pid string) {
	t.Helper()
	fixture.Must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return strconv.Itoa(cmd.Process.Pid)
}

func TestProcessThatHasABlockVolumeOpenIsNamed(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	device, err := os.Open(n.target("a"))
	fixture.Must(t, err)
	cmd := exec.Command("sleep", "1000")
	cmd.Stdin = device
	pid := start(t, cmd)
	fixture.Must(t, device.Close())
	n.stopUncleanly("a")
	n.wantHeld("process "+pid+" (sleep)", "has it open")
	fixture.Must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	n.wantDeletable()
}

func TestMountNamespaceThatHoldsAnImageIsNamed(t *testing.T) {
	n := newImageNode(t, imageSpec(volume.Ext4))
	n.stageAndPublish("a")
	cmd := exec.Command("unshare", "--mount", "sh", "-c",
		disks.LeaveOthers(n.KubeletDir)+"echo; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	fixture.Must(t, err)
	pid := start(t, cmd)
	_, err = out.Read(make([]byte, 1)) // it has its namespace
	fixture.Must(t, err)
	n.takeDown("a")
	namespace, err := os.Readlink("/proc/" + pid + "/ns/mnt")
	fixture.Must(t, err)
	n.wantHeld("process "+pid, "mounted at ", namespace)
	fixture.Must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	n.wantDeletable()
}
