package filesystem_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// world is a device without a filesystem, and a directory to mount one at.
type world struct {
	t      *testing.T
	fsType volume.FSType
	image  *os.File
	device *loopdev.Device
	path   string
	dir    *os.File
}

func newWorld(t *testing.T, fsType volume.FSType) *world {
	t.Helper()
	disks.RequireRoot(t)
	w := &world{t: t, fsType: fsType, path: t.TempDir()}
	var err error
	w.image, err = os.Create(filepath.Join(t.TempDir(), "image"))
	w.must(err)
	t.Cleanup(func() { w.image.Close() })
	w.must(w.image.Truncate(fsType.MinimumBytes()))
	w.device, err = loopdev.Attach(w.image, loopdev.Options{})
	w.must(err)
	t.Cleanup(w.device.Close)
	w.dir, err = os.OpenFile(w.path, unix.O_PATH|unix.O_DIRECTORY, 0)
	w.must(err)
	t.Cleanup(func() { w.dir.Close() })
	t.Cleanup(func() { _ = unix.Unmount(w.path, unix.MNT_DETACH) })
	return w
}

func specOf(fsType volume.FSType) volume.Spec {
	return volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Backing:    volume.ImageBacking,
		FSType:     fsType,
		Allocation: volume.Sparse,
	}
}

func (w *world) spec() volume.Spec { return specOf(w.fsType) }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) unmount() {
	w.t.Helper()
	w.must(unix.Unmount(w.path, 0))
}

// root is the mounted filesystem's; the caller closes it.
func (w *world) root() *os.File {
	w.t.Helper()
	f, err := os.Open(w.path)
	w.must(err)
	return f
}

func onEach(t *testing.T, test func(*world)) {
	t.Helper()
	for _, fsType := range volume.FSTypes() {
		t.Run(string(fsType), func(t *testing.T) { test(newWorld(t, fsType)) })
	}
}

func TestSmallestFilesystemIsMadeMountedAndMountedAgain(t *testing.T) {
	onEach(t, func(w *world) {
		w.must(filesystem.Make(w.device.Path(), w.dir, w.spec()))
		w.must(os.WriteFile(filepath.Join(w.path, "file"), []byte("precious"), 0o600))
		root := w.root()
		var st unix.Statfs_t
		w.must(unix.Fstatfs(int(root.Fd()), &st))
		root.Close()
		if st.Flags&unix.ST_NODEV == 0 || st.Flags&unix.ST_NOSUID == 0 {
			w.t.Errorf("it is mounted with flags %#x", st.Flags)
		}
		w.unmount()
		w.must(filesystem.Mount(w.device.Path(), w.dir, w.spec()))
		if got, err := os.ReadFile(filepath.Join(w.path, "file")); string(got) != "precious" {
			w.t.Errorf("the file has %q, %v", got, err)
		}
	})
}

func TestDamagedFilesystemIsAnErrorAndNeverMadeAgain(t *testing.T) {
	onEach(t, func(w *world) {
		w.must(filesystem.Make(w.device.Path(), w.dir, w.spec()))
		w.unmount()
		// All that blkid(8) looks at: the superblocks of ext4 and XFS, and the first two of btrfs.
		length := 8192
		if w.fsType == volume.Btrfs {
			length = 65 << 20
		}
		device, err := os.OpenFile(w.device.Path(), os.O_RDWR, 0)
		w.must(err)
		_, err = device.WriteAt(make([]byte, length), 0)
		w.must(errors.Join(err, device.Sync(), device.Close()))
		before := w.content()
		if err := filesystem.Mount(w.device.Path(), w.dir, w.spec()); !errors.Is(err, volume.ErrCorrupt) {
			w.t.Errorf("mounting it says %v, want ErrCorrupt", err)
		}
		if w.content() != before {
			w.t.Error("it was written to")
		}
	})
}

func TestFilesystemOfAnotherTypeIsAnError(t *testing.T) {
	w := newWorld(t, volume.XFS)
	w.must(filesystem.Make(w.device.Path(), w.dir, specOf(volume.Ext4)))
	w.unmount()
	if err := filesystem.Mount(
		w.device.Path(),
		w.dir,
		specOf(volume.XFS),
	); !errors.Is(
		err, volume.ErrCorrupt,
	) {
		t.Errorf("mounting it says %v, want ErrCorrupt", err)
	}
}

// content is enough of the device to tell two filesystems apart: mkfs gives each a UUID of its own.
func (w *world) content() string {
	w.t.Helper()
	buffer := make([]byte, 1<<20)
	_, err := w.image.ReadAt(buffer, 0)
	w.must(err)
	return string(buffer)
}

func TestRepairableDamageIsRepairedBeforeTheMount(t *testing.T) {
	w := newWorld(t, volume.Ext4)
	w.must(filesystem.Make(w.device.Path(), w.dir, w.spec()))
	w.unmount()
	for _, damage := range []string{"set_super_value free_blocks_count 1", "set_super_value state 0"} {
		out, err := exec.CommandContext(t.Context(), "debugfs", "-w", "-R", damage,
			w.device.Path()).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	w.must(filesystem.Mount(w.device.Path(), w.dir, w.spec()))
	u, err := mount.UsageOf(w.dirMounted())
	w.must(err)
	if u.AvailableBytes < 1<<20 {
		t.Errorf("%d bytes are free: it was not repaired", u.AvailableBytes)
	}
}

func (w *world) dirMounted() *os.File {
	w.t.Helper()
	f := w.root()
	w.t.Cleanup(func() { f.Close() })
	return f
}

func TestGrownFilesystemHasTheDevicesSizeAndGrowingItAgainChangesNothing(t *testing.T) {
	onEach(t, func(w *world) {
		w.must(filesystem.Make(w.device.Path(), w.dir, w.spec()))
		root := w.root()
		before, err := mount.UsageOf(root)
		w.must(err)
		more := w.fsType.MinimumBytes()
		w.must(w.image.Truncate(2 * more))
		w.must(w.device.SetCapacity())
		for range 2 {
			err := filesystem.Grow(w.device.Path(), w.path, w.fsType)
			if w.fsType == volume.Ext4 && !mayGrowExt4(w.t) {
				if !errors.Is(err, volume.ErrUnavailable) {
					w.t.Errorf("without CAP_SYS_RESOURCE: %v, want ErrUnavailable", err)
				}
				break
			}
			w.must(err)
			after, err := mount.UsageOf(root)
			w.must(err)
			if grown := after.TotalBytes - before.TotalBytes; grown < more*9/10 || grown > more {
				w.t.Errorf("it grew by %d bytes, want about %d", grown, more)
			}
		}
		w.must(root.Close())
	})
}

// mayGrowExt4: some machines that call themselves root lack the capability (the tests run with it
// in the virtual machine of test/vm).
func mayGrowExt4(t *testing.T) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapEff:\t")
	digits, _, _ := strings.Cut(rest, "\n")
	effective, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func TestTwoFilesystemsWithOneUUIDAreBothMounted(t *testing.T) {
	w := newWorld(t, volume.XFS)
	w.must(filesystem.Make(w.device.Path(), w.dir, w.spec()))
	w.must(os.WriteFile(filepath.Join(w.path, "file"), []byte("first"), 0o600))
	w.unmount()
	other := newWorld(t, volume.XFS)
	from, err := os.Open(w.image.Name())
	w.must(err)
	defer from.Close()
	_, err = other.image.ReadFrom(from)
	w.must(err)
	w.must(other.image.Sync())
	w.must(filesystem.Mount(w.device.Path(), w.dir, w.spec()))
	w.must(filesystem.Mount(other.device.Path(), other.dir, w.spec()))
	if got, err := os.ReadFile(filepath.Join(other.path, "file")); string(got) != "first" {
		t.Errorf("the copy has %q, %v", got, err)
	}
}

func TestMissingProgramIsSaidWithItsRemedy(t *testing.T) {
	w := newWorld(t, volume.Ext4)
	t.Setenv("PATH", t.TempDir())
	for name, err := range map[string]error{
		"make":  filesystem.Make(w.device.Path(), w.dir, w.spec()),
		"mount": filesystem.Mount(w.device.Path(), w.dir, w.spec()),
		"grow":  filesystem.Grow(w.device.Path(), w.path, w.fsType),
	} {
		if !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("%s says %v, want ErrUnavailable", name, err)
		}
	}
}

func TestFrozenFilesystemHoldsItsWritersUntilTheThaw(t *testing.T) {
	onEach(t, func(w *world) {
		w.must(filesystem.Make(w.device.Path(), w.dir, w.spec()))
		root := w.root()
		defer root.Close()
		w.must(filesystem.Freeze(root))
		written := make(chan error, 1)
		go func() { written <- os.WriteFile(filepath.Join(w.path, "file"), nil, 0o600) }()
		select {
		case err := <-written:
			w.t.Errorf("a writer was not held: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if frozen, err := filesystem.Thaw(root); !frozen || err != nil {
			w.t.Errorf("thawed: %t, %v", frozen, err)
		}
		w.must(<-written)
		if frozen, err := filesystem.Thaw(root); frozen || err != nil {
			w.t.Errorf("thawed again: %t, %v", frozen, err)
		}
	})
}
