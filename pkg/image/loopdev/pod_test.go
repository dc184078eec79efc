package loopdev_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/pod"
)

const changeFd = 0x4c06 // LOOP_CHANGE_FD of linux/loop.h

// clearDevice asks for the device to be detached as soon as nobody has it open, and closes it.
func clearDevice(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 0); !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("the pod has capabilities: BLKROSET says %w", err)
	}
	return unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
}

func isAttached(t *testing.T, image *os.File, access loopdev.Access) bool {
	t.Helper()
	d, err := loopdev.Find(image, access)
	if err == nil {
		d.Close()
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	return err == nil
}

func TestOnlyAGuardKeepsAPodFromDetachingItsDevice(t *testing.T) {
	for _, access := range []loopdev.Access{loopdev.ReadWrite, loopdev.ReadOnly} {
		for _, guarded := range []bool{false, true} {
			image := newImage(t, t.TempDir(), mib)
			d := attach(t, image, loopdev.Options{Access: access, Lifetime: loopdev.UntilDetached})
			for range 2 { // the second time it is there
				if !guarded {
					break
				}
				fixture.Must(t, d.Guard())
			}
			d.Close()
			pod.Run(t, func() error { return clearDevice(d.Path()) })
			if got := isAttached(t, image, access); got != guarded {
				t.Errorf("access %d, guarded %t: the device is attached: %t", access, guarded, got)
			}
			if guarded {
				detachGuarded(t, d.Number())
			}
			wantNone(t, image, access)
		}
	}
}

// kubelet puts a loop device of its own on the node that it has bind-mounted for a pod (Kubernetes
// 1.36, pkg/volume/util/volumepathhandler, AttachFileDevice), after NodePublishVolume and before
// the pod's containers start. So that device is a guard, too, while containers run. It goes before
// NodeUnpublishVolume is called (pkg/volume/util, UnmapBlockVolume): without a guard of ours the
// device goes then, and its target shows a free device. Other orchestrators make no such device.
func TestKubeletsLoopDeviceHoldsAPodsDeviceOnlyUntilItIsUnmapped(t *testing.T) {
	for _, guarded := range []bool{false, true} {
		image := newImage(t, t.TempDir(), mib)
		d := attach(t, image, loopdev.Options{Lifetime: loopdev.UntilDetached})
		if guarded {
			fixture.Must(t, d.Guard())
		}
		d.Close()
		mapped := filepath.Join(t.TempDir(), "pod-uid")
		fixture.Must(t, os.WriteFile(mapped, nil, 0o600))
		fixture.Must(t, unix.Mount(d.Path(), mapped, "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(mapped, unix.MNT_DETACH) })
		kubelets := losetup(t, "-f", "--show", mapped)
		pod.Run(t, func() error { return clearDevice(d.Path()) })
		if !isAttached(t, image, loopdev.ReadWrite) {
			t.Errorf("guarded %t: kubelet's device does not hold it", guarded)
		}
		losetup(t, "-d", kubelets)
		if got := isAttached(t, image, loopdev.ReadWrite); got != guarded {
			t.Errorf("guarded %t: when kubelet has unmapped it, it is attached: %t", guarded, got)
		}
		if guarded {
			detachGuarded(t, d.Number())
		}
		wantNone(t, image, loopdev.ReadWrite)
	}
}

func losetup(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "losetup", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// After an upgrade the guard's file is the node in the /dev of a container that has gone.
func TestGuardOfADriverThatHasGoneIsFound(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	d := attach(t, image, loopdev.Options{Lifetime: loopdev.UntilDetached})
	fixture.Must(t, elsewhere(func() error {
		again, err := loopdev.Open(d.Number())
		if err != nil {
			return err
		}
		defer again.Close()
		return again.Guard()
	}))
	fixture.Must(t, d.Guard())
	d.Close()
	detachGuarded(t, d.Number())
	wantNone(t, image, loopdev.ReadWrite)
}

// elsewhere calls a function with a /dev that goes with it.
func elsewhere(call func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = errors.Join(call(), unix.Unmount("/dev", unix.MNT_DETACH))
		}
		result <- err
	}()
	return <-result
}

// detachGuarded also looks that there is one guard, and no other afterwards.
func detachGuarded(t *testing.T, number int) {
	t.Helper()
	d, err := loopdev.Guarded(number)
	fixture.Must(t, err)
	fixture.Must(t, d.Detach())
	d.Close()
	if _, err := loopdev.Guarded(number); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a guard is left: %v", err)
	}
}

func TestGuardShowsNothingOfItsDevice(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	d := attach(t, image, loopdev.Options{})
	defer d.Close()
	fixture.Must(t, d.Guard())
	defer func() { fixture.Must(t, d.Detach()) }()
	after, err := loopdev.Attached()
	fixture.Must(t, err)
	guards := 0
	for _, n := range after {
		if path, err := loopdev.BackingPath(n); err != nil || path != d.Path() {
			continue
		}
		guards++
		guard, err := loopdev.Open(n)
		fixture.Must(t, err)
		if bytes, err := guard.Bytes(); bytes != 0 || err != nil || guard.Access() != loopdev.ReadOnly {
			t.Errorf("the guard has %d bytes, %v, and access %d", bytes, err, guard.Access())
		}
		guard.Close()
	}
	if guards != 1 {
		t.Errorf("%d guards", guards)
	}
}

func TestResetUndoesWhatAPodHasAskedOfItsDevice(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	d := attach(t, image, loopdev.Options{Lifetime: loopdev.UntilDetached})
	defer d.Close()
	defer func() { fixture.Must(t, d.Detach()) }()
	if changed, err := d.ResetParameters(); changed || err != nil {
		t.Errorf("a device that is right is changed: %t, %v", changed, err)
	}
	pod.Run(t, func() error {
		f, err := os.OpenFile(d.Path(), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		fd := int(f.Fd())
		return errors.Join(
			unix.IoctlSetInt(fd, unix.LOOP_SET_DIRECT_IO, 0),
			unix.IoctlSetInt(fd, unix.LOOP_SET_BLOCK_SIZE, 512),
			unix.IoctlLoopSetStatus64(fd,
				&unix.LoopInfo64{Offset: 4096, Sizelimit: 8192, Flags: unix.LO_FLAGS_AUTOCLEAR}),
		)
	})
	if bytes, err := d.Bytes(); bytes != 8192 || err != nil {
		t.Errorf("the pod has not changed the device: %d bytes, %v", bytes, err)
	}
	if changed, err := d.ResetParameters(); !changed || err != nil {
		t.Errorf("changed: %t, %v", changed, err)
	}
	if bytes, err := d.Bytes(); bytes != mib || err != nil {
		t.Errorf("the device has %d bytes, %v", bytes, err)
	}
	if size, err := unix.IoctlGetInt(fdOf(t, d.Path()), unix.BLKSSZGET); size != loopdev.BlockSize ||
		err != nil {
		t.Errorf("its blocks have %d bytes, %v", size, err)
	}
	if !d.IsDirect() || d.Lifetime() != loopdev.UntilDetached {
		t.Errorf("direct I/O: %t, lifetime %d", d.IsDirect(), d.Lifetime())
	}
}

func fdOf(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	fixture.Must(t, err)
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

func TestRestoreTakesAPodsFileOffAReadOnlyDevice(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	_, err := image.WriteAt([]byte("precious"), 0)
	fixture.Must(t, err)
	d := attach(t, image, loopdev.Options{Access: loopdev.ReadOnly, Lifetime: loopdev.UntilDetached})
	defer d.Close()
	defer func() { fixture.Must(t, d.Detach()) }()
	fixture.Must(t, d.Guard())
	forged, err := os.Create(filepath.Join(t.TempDir(), "forged"))
	fixture.Must(t, err)
	defer forged.Close()
	fixture.Must(t, forged.Truncate(mib))
	pod.Run(t, func() error {
		f, err := os.Open(d.Path())
		if err != nil {
			return err
		}
		defer f.Close()
		return errors.Join(
			unix.IoctlSetInt(int(f.Fd()), changeFd, int(forged.Fd())),
			// so that no file of the right size is one of the same size
			forged.Truncate(2*loopdev.BlockSize),
		)
	})
	wantNone(t, image, loopdev.ReadOnly)
	there, err := loopdev.Open(d.Number())
	fixture.Must(t, err)
	defer there.Close()
	fixture.Must(t, there.Restore(image))
	if !isAttached(t, image, loopdev.ReadOnly) {
		t.Error("the image is not back")
	}
	got := make([]byte, 8)
	if _, err := unix.Pread(fdOf(t, d.Path()), got, 0); string(got) != "precious" || err != nil {
		t.Errorf("the device has %q, %v", got, err)
	}
	if bytes, err := there.Bytes(); bytes != mib || err != nil {
		t.Errorf("the device has %d bytes, %v", bytes, err)
	}
}

func TestNumberThatAMountStillShowsGetsNoOtherFile(t *testing.T) {
	disks.RequireRoot(t)
	dir := t.TempDir()
	d := attach(t, newImage(t, dir, mib), loopdev.Options{Lifetime: loopdev.UntilDetached})
	node, err := d.Expose()
	fixture.Must(t, err)
	node.Close()
	target := filepath.Join(dir, "target")
	fixture.Must(t, os.WriteFile(target, nil, 0o600))
	fixture.Must(t, unix.Mount(d.Path(), target, "", unix.MS_BIND, ""))
	t.Cleanup(func() { fixture.Must(t, unix.Unmount(target, unix.MNT_DETACH)) })
	fixture.Must(t, d.Detach()) // as an operator would, with losetup -d
	d.Close()
	secret, err := os.Create(filepath.Join(dir, "secret"))
	fixture.Must(t, err)
	defer secret.Close()
	fixture.Must(t, secret.Truncate(mib))
	for range 3 {
		other := attach(t, secret, loopdev.Options{})
		t.Cleanup(other.Close)
		if other.Number() == d.Number() {
			t.Fatalf("%s, which a mount shows, has got another file", other.Path())
		}
	}
}

func TestNoPartitionsAreLookedForInAPodsFile(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	d := attach(t, image, loopdev.Options{})
	defer d.Close()
	info, err := unix.IoctlLoopGetStatus64(fdOf(t, d.Path()))
	fixture.Must(t, err)
	if info.Flags&unix.LO_FLAGS_PARTSCAN != 0 {
		t.Errorf("the flags are %#x", info.Flags)
	}
}
