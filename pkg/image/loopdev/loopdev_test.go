package loopdev_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const mib = 1 << 20

// newImage makes a file, and makes sure that the test leaves no device of it.
func newImage(t *testing.T, dir string, size int64) *os.File {
	t.Helper()
	disks.RequireRoot(t)
	f, err := os.Create(filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")))
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		wantDetached(t, f)
		f.Close()
	})
	return f
}

// wantDetached waits until a file is on no device. udev, or a test of another package that looks at
// all devices, may have one open for a moment, and it is detached when they close it.
func wantDetached(t *testing.T, f *os.File) {
	t.Helper()
	for _, access := range []loopdev.Access{loopdev.ReadWrite, loopdev.ReadOnly} {
		fixture.Eventually(t, "the file is on no device", func() bool {
			d, err := loopdev.Find(f, access)
			if err != nil {
				return true
			}
			d.Close()
			return false
		})
	}
}

func attach(t *testing.T, image *os.File, o loopdev.Options) *loopdev.Device {
	t.Helper()
	d, err := loopdev.Attach(image, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAttachedDeviceHasTheFilesExactSizeAndIsFoundByTheFile(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disks.RequireRoot(t)
			image := newImage(t, disks.New(t, fstype, 0).Dir, 3*mib+loopdev.BlockSize)
			d := attach(t, image, loopdev.Options{})
			defer d.Close()
			if bytes, err := d.Bytes(); bytes != 3*mib+loopdev.BlockSize || err != nil {
				t.Errorf("the device has %d bytes, %v, want %d", bytes, err, 3*mib+loopdev.BlockSize)
			}
			if !d.IsDirect() {
				t.Error("the device has no direct I/O")
			}
			// Under another name, and by a descriptor of another open: it is the file that counts.
			if err := os.Rename(image.Name(), image.Name()+"-moved"); err != nil {
				t.Fatal(err)
			}
			other, err := os.OpenFile(image.Name()+"-moved", unix.O_PATH, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			found, err := loopdev.Find(other, loopdev.ReadWrite)
			if err != nil {
				t.Fatal(err)
			}
			defer found.Close()
			if found.Number() != d.Number() {
				t.Errorf("found %s, want %s", found.Path(), d.Path())
			}
			if path, err := loopdev.BackingPath(
				d.Number(),
			); filepath.Base(path) != filepath.Base(other.Name()) ||
				err != nil {
				t.Errorf("its file is said to be at %s, %v, want %s", path, err, other.Name())
			}
		})
	}
}

func TestDeviceGoesWhenNobodyUsesIt(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	attach(t, image, loopdev.Options{Lifetime: loopdev.WhileUsed}).Close()
	wantNone(t, image, loopdev.ReadWrite)
}

func TestDeviceStaysUntilItIsDetached(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	attach(t, image, loopdev.Options{Lifetime: loopdev.UntilDetached}).Close()
	d, err := loopdev.Find(image, loopdev.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if d.Lifetime() != loopdev.UntilDetached {
		t.Error("it says that it goes by itself")
	}
	if err := d.Detach(); err != nil {
		t.Error(err)
	}
	d.Close()
	wantNone(t, image, loopdev.ReadWrite)
}

func wantNone(t *testing.T, image *os.File, access loopdev.Access) {
	t.Helper()
	d, err := loopdev.Find(image, access)
	if err == nil {
		d.Close()
		t.Errorf("the file is still on %s", d.Path())
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A pod need not sync its raw block volume: its next pod finds what this one wrote.
func TestWhatWasNotSyncedIsInTheFileOfADetachedDevice(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	device := attach(t, image, loopdev.Options{
		Access: loopdev.ReadWrite, Lifetime: loopdev.UntilDetached,
	})
	fixture.Must(t, device.Guard())
	written := []byte("written and not synced")
	pod, err := os.OpenFile(device.Path(), os.O_WRONLY, 0)
	fixture.Must(t, err)
	_, err = pod.Write(written)
	fixture.Must(t, errors.Join(err, pod.Close()))
	fixture.Must(t, device.Detach())
	device.Close()
	wantDetached(t, image)
	read := make([]byte, len(written))
	if _, err := image.ReadAt(read, 0); err != nil || !bytes.Equal(read, written) {
		t.Errorf("%q, %v, want %q", read, err, written)
	}
}

func TestReadOnlyDeviceRefusesWritesAlsoWhenItIsSetWritable(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	d := attach(t, image, loopdev.Options{Access: loopdev.ReadOnly})
	defer d.Close()
	wantNone(t, image, loopdev.ReadWrite)
	if f, err := os.OpenFile(d.Path(), os.O_RDWR, 0); err == nil {
		_, err := f.WriteAt(make([]byte, loopdev.BlockSize), 0)
		if err == nil {
			err = f.Sync()
		}
		f.Close()
		if err == nil {
			t.Error("the device was written to")
		}
	}
	fd, err := unix.Open(d.Path(), unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetPointerInt(fd, unix.BLKROSET, 0); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(d.Path(), os.O_RDWR, 0)
	if err != nil {
		return // it stays closed to writers
	}
	defer f.Close()
	if _, err = f.WriteAt([]byte{1}, 0); err == nil {
		err = f.Sync()
	}
	content := make([]byte, 1)
	if _, readErr := image.ReadAt(content, 0); err == nil || readErr != nil || content[0] != 0 {
		t.Errorf("after BLKROSET the write says %v, and the file begins with %d (%v)", err, content[0],
			readErr)
	}
}

func TestReadOnlyAndWritableDevicesOfOneFileAreFoundApart(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	writable := attach(t, image, loopdev.Options{})
	defer writable.Close()
	readOnly := attach(t, image, loopdev.Options{Access: loopdev.ReadOnly})
	defer readOnly.Close()
	for access, want := range map[loopdev.Access]*loopdev.Device{
		loopdev.ReadWrite: writable, loopdev.ReadOnly: readOnly,
	} {
		found, err := loopdev.Find(image, access)
		if err != nil {
			t.Fatal(err)
		}
		if found.Number() != want.Number() || found.Access() != access {
			t.Errorf("found %s, want %s", found.Path(), want.Path())
		}
		found.Close()
	}
}

func TestDeviceGrowsWithItsFile(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	d := attach(t, image, loopdev.Options{})
	defer d.Close()
	if err := image.Truncate(2 * mib); err != nil {
		t.Fatal(err)
	}
	if err := d.SetCapacity(); err != nil {
		t.Fatal(err)
	}
	if size, err := d.Bytes(); size != 2*mib || err != nil {
		t.Errorf("the device has %d bytes, %v", size, err)
	}
}

func TestManyFilesAttachedAtOnceGetADeviceEach(t *testing.T) {
	disks.RequireRoot(t)
	const files = 16
	dir := t.TempDir()
	numbers := make(chan int, files)
	var wg sync.WaitGroup
	for i := range files {
		wg.Go(func() {
			f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
			if err == nil {
				err = f.Truncate(mib)
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			d, err := loopdev.Attach(f, loopdev.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(d.Close)
			numbers <- d.Number()
		})
	}
	wg.Wait()
	close(numbers)
	seen := map[int]bool{}
	for n := range numbers {
		if seen[n] {
			t.Errorf("device %d was given out twice", n)
		}
		seen[n] = true
	}
	if len(seen) != files {
		t.Errorf("%d devices for %d files", len(seen), files)
	}
}

func TestDeviceUnderAFilesystemIsFoundThroughAnyOfItsFiles(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			disk := disks.New(t, fstype, 0)
			path := filepath.Join(disk.Dir, "file")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{disk.Dir, path} {
				f, err := os.OpenFile(p, unix.O_PATH, 0)
				if err != nil {
					t.Fatal(err)
				}
				d, err := loopdev.Under(f)
				f.Close()
				if err != nil {
					t.Fatal(err)
				}
				d.Close()
				if d.Path() != disk.Device {
					t.Errorf("under %s is %s, want %s", p, d.Path(), disk.Device)
				}
				if claimed, err := d.IsClaimed(); !claimed || err != nil {
					t.Errorf("%s is mounted, and free (%v)", d.Path(), err)
				}
			}
		})
	}
}

func TestWhatIsOnNoLoopDeviceIsNotFound(t *testing.T) {
	disks.RequireRoot(t)
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if d, err := loopdev.Under(f); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, %v", d, err)
	}
	if d, err := loopdev.NodeOf(f); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, %v", d, err)
	}
}

func TestNodeOfADeviceIsThatDevice(t *testing.T) {
	image := newImage(t, t.TempDir(), mib)
	d := attach(t, image, loopdev.Options{})
	defer d.Close()
	f, err := os.OpenFile(d.Path(), unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := loopdev.NodeOf(f)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if want, err := openat.IdentityOf(image); got.Backing() != want || err != nil {
		t.Errorf("its file is %v, want %v (%v)", got.Backing(), want, err)
	}
}

func TestDeviceOfADeadDiskIsInNobodysWay(t *testing.T) {
	disk := disks.New(t, disks.XFS, 0)
	dead, err := os.Create(filepath.Join(disk.Dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	if err := dead.Truncate(mib); err != nil {
		t.Fatal(err)
	}
	d := attach(t, dead, loopdev.Options{})
	defer d.Close()
	healthy := newImage(t, t.TempDir(), mib)
	other := attach(t, healthy, loopdev.Options{})
	defer other.Close()
	disk.Shutdown(t)
	if d, err := loopdev.Open(d.Number()); !errors.Is(err, unix.EIO) {
		t.Fatalf("the device of the dead disk says %v, %v, want EIO", d, err)
	}
	wantNone(t, healthy, loopdev.ReadOnly) // none of all devices
	node, err := d.Node()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	if n, err := loopdev.NumberOfNode(node); n != d.Number() || err != nil {
		t.Errorf("its node is that of device %d, %v, want %d", n, err, d.Number())
	}
}
