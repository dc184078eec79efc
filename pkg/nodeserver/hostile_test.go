package nodeserver

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/pod"
)

const changeFd = 0x4c06 // LOOP_CHANGE_FD of linux/loop.h

// hostilePod is a pod that has device nodes, and a file of the volume's size that it tries to put
// on the devices.
type hostilePod struct {
	nodes []string
	file  *os.File
	// rounds counts how often the pod has tried everything.
	rounds int
	// seen is the first block that the pod has read and that belongs to another volume.
	seen []byte
}

func newHostilePod(t *testing.T, size int64, nodes ...string) *hostilePod {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "forged"))
	fixture.Must(t, err)
	t.Cleanup(func() { f.Close() })
	fixture.Must(t, f.Truncate(size))
	return &hostilePod{nodes: nodes, file: f}
}

// attack tries everything on every device, until stop is closed.
func (p *hostilePod) attack(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		for _, node := range p.nodes {
			p.ask(node, os.O_RDONLY)
			p.ask(node, os.O_RDWR)
		}
		p.rounds++
	}
}

// ask tries every ioctl on a device, and reads the device in between. The kernel may refuse any of
// them.
func (p *hostilePod) ask(node string, flags int) {
	f, err := os.OpenFile(node, flags, 0)
	if err != nil {
		return
	}
	defer f.Close()
	device, file := int(f.Fd()), int(p.file.Fd())
	look := func() {
		content := make([]byte, loopdev.BlockSize)
		if n, _ := f.ReadAt(content, 0); n > 0 && bytes.Contains(content[:n], []byte("secret")) &&
			p.seen == nil {
			p.seen = content
		}
	}
	look()
	_ = unix.IoctlLoopSetStatus64(device,
		&unix.LoopInfo64{Offset: 512, Flags: unix.LO_FLAGS_AUTOCLEAR})
	_ = unix.IoctlSetInt(device, unix.LOOP_SET_CAPACITY, 0)
	_ = unix.IoctlSetInt(device, unix.LOOP_SET_DIRECT_IO, 0)
	_ = unix.IoctlSetInt(device, unix.LOOP_SET_BLOCK_SIZE, 512)
	_ = unix.IoctlSetInt(device, unix.LOOP_CLR_FD, 0)
	look()
	_ = unix.IoctlSetInt(device, changeFd, file)
	_ = unix.IoctlSetInt(device, unix.LOOP_SET_FD, file)
	_ = unix.IoctlLoopConfigure(device,
		&unix.LoopConfig{Fd: uint32(file)}) //nolint:gosec // a small number
	_ = unix.IoctlSetInt(device, unix.LOOP_CLR_FD, 0)
	look()
}

// createBlock creates another raw block volume.
func (n *imageNode) createBlock(name string) *imageNode {
	n.t.Helper()
	spec := volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Backing:    volume.ImageBacking,
		Allocation: volume.Sparse,
	}
	other := *n
	other.id = n.createImage(name, spec)
	n.t.Cleanup(func() {
		unmountBelow(n.t, n.KubeletDir)
		for _, access := range []loopdev.Access{loopdev.ReadWrite, loopdev.ReadOnly} {
			other.detach(access)
		}
	})
	return &other
}

func fillDevice(t *testing.T, path, word string, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	fixture.Must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte(word), int(size)/len(word)), 0)
	fixture.Must(t, errors.Join(err, f.Sync(), f.Close()))
}

func isPrecious(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	fixture.Must(t, err)
	defer f.Close()
	fixture.Must(t, unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0))
	content := make([]byte, len("precious"))
	_, err = f.ReadAt(content, 0)
	fixture.Must(t, err)
	return string(content) == "precious"
}

func TestPodThatAsksEverythingOfItsDeviceSeesNoOtherVolumeAndKeepsItsOwn(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("writer"))
	fixture.Must(t, n.publishBlockReadOnly("reader"))
	fillDevice(t, n.target("writer"), "precious", n.capacity())
	other := n.createBlock("other")
	hostile := newHostilePod(t, n.capacity(), n.target("writer"), n.target("reader"))
	stop := make(chan struct{})
	ended := pod.Start(func() error { return hostile.attack(stop) })
	for range 20 {
		fixture.Must(t, other.publishBlock("other"))
		fillDevice(t, n.target("other"), "secret!!", other.capacity())
		n.restart(t)
		fixture.Must(t, staging.Reconcile(t.Context(), n.pool, n.Limiter, n.Publications.Targets))
		fixture.Must(t, n.unpublish(t, other.id, "other"))
		other.wantDetached(other.id)
	}
	close(stop)
	fixture.Must(t, <-ended)
	if hostile.rounds == 0 || hostile.seen != nil {
		t.Errorf("after %d rounds the pod has seen %q", hostile.rounds, hostile.seen)
	}
	fixture.Must(t, n.publishBlock("victim"))
	victim, err := os.Open(n.target("victim"))
	fixture.Must(t, err)
	if got := deviceSize(t, victim); got != n.capacity() || !isPrecious(t, n.target("victim")) {
		t.Errorf("the device has %d bytes, want %d with what was written", got, n.capacity())
	}
	fixture.Must(t, victim.Close())
	for _, name := range []string{"writer", "reader", "victim"} {
		fixture.Must(t, n.unpublish(t, n.id, name))
	}
	n.wantDetached(n.id)
	wantNothingAttached(t)
}

// wantNothingAttached fails the test if a file of the test is on a loop device.
func wantNothingAttached(t *testing.T) {
	t.Helper()
	numbers, err := loopdev.Attached()
	fixture.Must(t, err)
	for _, number := range numbers {
		path, err := loopdev.BackingPath(number)
		if err == nil && strings.HasPrefix(path, filepath.Dir(t.TempDir())) {
			t.Errorf("%s is still on device %d", path, number)
		}
	}
}

func TestFileThatAPodPutsOnItsReadOnlyDeviceIsSeenByNobodyWhoComesLater(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("writer"))
	fillDevice(t, n.target("writer"), "precious", n.capacity())
	fixture.Must(t, n.publishBlockReadOnly("hostile"))
	exchange(t, n)
	fixture.Must(t, n.publishBlockReadOnly("victim"))
	if !isPrecious(t, n.target("victim")) || !isPrecious(t, n.target("hostile")) {
		t.Error("readers see the pod's file")
	}
	n.restart(t)
	exchange(t, n)
	n.restart(t) // the restarted driver learns the targets from the mount table
	fixture.Must(t, staging.Reconcile(t.Context(), n.pool, n.Limiter, n.Publications.Targets))
	fixture.Must(t, n.publishBlockReadOnly("later"))
	if !isPrecious(t, n.target("later")) {
		t.Error("a new reader sees the pod's file")
	}
	for _, name := range []string{"hostile", "victim", "later", "writer"} {
		fixture.Must(t, n.unpublish(t, n.id, name))
	}
	n.wantDetached(n.id)
	wantNothingAttached(t)
}

// exchange puts the pod's file on the read-only device of the pod.
func exchange(t *testing.T, n *imageNode) {
	t.Helper()
	hostile := newHostilePod(t, n.capacity())
	pod.Run(t, func() error {
		f, err := os.Open(n.target("hostile"))
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.IoctlSetInt(int(f.Fd()), changeFd, int(hostile.file.Fd()))
	})
	if isPrecious(t, n.target("hostile")) {
		t.Error("the pod could not exchange the file")
	}
}

func TestTargetOfADeviceThatAnOperatorDetachedIsUnpublishedAndNeverShowsAnother(t *testing.T) {
	n := newBlockNode(t)
	fixture.Must(t, n.publishBlock("a"))
	n.detach(loopdev.ReadWrite)
	n.restart(t)
	fixture.Must(t, staging.Reconcile(t.Context(), n.pool, n.Limiter, n.Publications.Targets))
	other := n.createBlock("other")
	fixture.Must(t, other.publishBlock("b"))
	fillDevice(t, n.target("b"), "secret!!", other.capacity())
	if f, err := os.Open(n.target("a")); err == nil {
		if size := deviceSize(t, f); size != 0 {
			t.Errorf("the target shows a device of %d bytes", size)
		}
		f.Close()
	}
	wantCode(t, n.publishBlock("a"), codes.FailedPrecondition)
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	fixture.Must(t, n.publishBlock("a"))
	fixture.Must(t, n.unpublish(t, n.id, "a"))
	fixture.Must(t, n.unpublish(t, other.id, "b"))
	n.wantDetached(n.id)
}
