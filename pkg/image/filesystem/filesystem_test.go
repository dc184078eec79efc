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
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// deviceFixture is a device without a filesystem, and a directory to mount one at.
type deviceFixture struct {
	t      *testing.T
	fsType volume.FSType
	image  *os.File
	device *loopdev.Device
	path   string
	dir    *os.File
}

func newDeviceFixture(t *testing.T, fsType volume.FSType) *deviceFixture {
	t.Helper()
	disks.RequireRoot(t)
	fix := &deviceFixture{t: t, fsType: fsType, path: t.TempDir()}
	var err error
	fix.image, err = os.Create(filepath.Join(t.TempDir(), "image"))
	fixture.Must(fix.t, err)
	t.Cleanup(func() { fix.image.Close() })
	fixture.Must(fix.t, fix.image.Truncate(fsType.MinimumBytes()))
	fix.device, err = loopdev.Attach(fix.image, loopdev.Options{})
	fixture.Must(fix.t, err)
	t.Cleanup(fix.device.Close)
	fix.dir, err = os.OpenFile(fix.path, unix.O_PATH|unix.O_DIRECTORY, 0)
	fixture.Must(fix.t, err)
	t.Cleanup(func() { fix.dir.Close() })
	t.Cleanup(func() { _ = unix.Unmount(fix.path, unix.MNT_DETACH) })
	return fix
}

func specOf(fsType volume.FSType) volume.Spec {
	return volume.Spec{
		Type:       volume.DirectoryOrCreate,
		Backing:    volume.ImageBacking,
		FSType:     fsType,
		Allocation: volume.Sparse,
	}
}

func (fix *deviceFixture) spec() volume.Spec { return specOf(fix.fsType) }

func (fix *deviceFixture) unmount() {
	fix.t.Helper()
	fixture.Must(fix.t, unix.Unmount(fix.path, 0))
}

// root is the mounted filesystem's; the caller closes it.
func (fix *deviceFixture) root() *os.File {
	fix.t.Helper()
	f, err := os.Open(fix.path)
	fixture.Must(fix.t, err)
	return f
}

func onEach(t *testing.T, test func(*deviceFixture)) {
	t.Helper()
	for _, fsType := range volume.FSTypes() {
		t.Run(string(fsType), func(t *testing.T) { test(newDeviceFixture(t, fsType)) })
	}
}

func TestSmallestFilesystemIsMadeMountedAndMountedAgain(t *testing.T) {
	onEach(t, func(fix *deviceFixture) {
		fixture.Must(fix.t, filesystem.Make(fix.device.Path(), fix.dir, fix.spec()))
		fixture.Must(fix.t, os.WriteFile(filepath.Join(fix.path, "file"), []byte("precious"), 0o600))
		root := fix.root()
		var st unix.Statfs_t
		fixture.Must(fix.t, unix.Fstatfs(int(root.Fd()), &st))
		root.Close()
		if st.Flags&unix.ST_NODEV == 0 || st.Flags&unix.ST_NOSUID == 0 {
			fix.t.Errorf("it is mounted with flags %#x", st.Flags)
		}
		fix.unmount()
		fixture.Must(fix.t, filesystem.Mount(fix.device.Path(), fix.dir, fix.spec()))
		if got, err := os.ReadFile(filepath.Join(fix.path, "file")); string(got) != "precious" {
			fix.t.Errorf("the file has %q, %v", got, err)
		}
	})
}

func TestDamagedFilesystemIsAnErrorAndNeverMadeAgain(t *testing.T) {
	onEach(t, func(fix *deviceFixture) {
		fixture.Must(fix.t, filesystem.Make(fix.device.Path(), fix.dir, fix.spec()))
		fix.unmount()
		// All that blkid(8) looks at: the superblocks of ext4 and XFS, and the first two of btrfs.
		length := 8192
		if fix.fsType == volume.Btrfs {
			length = 65 << 20
		}
		device, err := os.OpenFile(fix.device.Path(), os.O_RDWR, 0)
		fixture.Must(fix.t, err)
		_, err = device.WriteAt(make([]byte, length), 0)
		fixture.Must(fix.t, errors.Join(err, device.Sync(), device.Close()))
		before := fix.content()
		err = filesystem.Mount(fix.device.Path(), fix.dir, fix.spec())
		if !errors.Is(err, volume.ErrCorrupt) {
			fix.t.Errorf("mounting it says %v, want ErrCorrupt", err)
		}
		if fix.content() != before {
			fix.t.Error("it was written to")
		}
	})
}

func TestFilesystemOfAnotherTypeIsAnError(t *testing.T) {
	fix := newDeviceFixture(t, volume.XFS)
	fixture.Must(fix.t, filesystem.Make(fix.device.Path(), fix.dir, specOf(volume.Ext4)))
	fix.unmount()
	if err := filesystem.Mount(
		fix.device.Path(),
		fix.dir,
		specOf(volume.XFS),
	); !errors.Is(
		err, volume.ErrCorrupt,
	) {
		t.Errorf("mounting it says %v, want ErrCorrupt", err)
	}
}

// content is enough of the device to tell two filesystems apart: mkfs gives each a UUID of its own.
func (fix *deviceFixture) content() string {
	fix.t.Helper()
	buffer := make([]byte, 1<<20)
	_, err := fix.image.ReadAt(buffer, 0)
	fixture.Must(fix.t, err)
	return string(buffer)
}

func TestRepairableDamageIsRepairedBeforeTheMount(t *testing.T) {
	fix := newDeviceFixture(t, volume.Ext4)
	fixture.Must(fix.t, filesystem.Make(fix.device.Path(), fix.dir, fix.spec()))
	fix.unmount()
	for _, damage := range []string{"set_super_value free_blocks_count 1", "set_super_value state 0"} {
		out, err := exec.CommandContext(t.Context(), "debugfs", "-w", "-R", damage,
			fix.device.Path()).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	fixture.Must(fix.t, filesystem.Mount(fix.device.Path(), fix.dir, fix.spec()))
	u, err := mount.UsageOf(fix.dirMounted())
	fixture.Must(fix.t, err)
	if u.AvailableBytes < 1<<20 {
		t.Errorf("%d bytes are free: it was not repaired", u.AvailableBytes)
	}
}

func (fix *deviceFixture) dirMounted() *os.File {
	fix.t.Helper()
	f := fix.root()
	fix.t.Cleanup(func() { f.Close() })
	return f
}

func TestGrownFilesystemHasTheDevicesSizeAndGrowingItAgainChangesNothing(t *testing.T) {
	onEach(t, func(fix *deviceFixture) {
		fixture.Must(fix.t, filesystem.Make(fix.device.Path(), fix.dir, fix.spec()))
		root := fix.root()
		before, err := mount.UsageOf(root)
		fixture.Must(fix.t, err)
		more := fix.fsType.MinimumBytes()
		fixture.Must(fix.t, fix.image.Truncate(2*more))
		fixture.Must(fix.t, fix.device.SetCapacity())
		for range 2 {
			err := filesystem.Grow(fix.device.Path(), fix.path, fix.fsType)
			if fix.fsType == volume.Ext4 && !mayGrowExt4(fix.t) {
				if !errors.Is(err, volume.ErrNode) {
					fix.t.Errorf("without CAP_SYS_RESOURCE: %v, want ErrNode", err)
				}
				break
			}
			fixture.Must(fix.t, err)
			after, err := mount.UsageOf(root)
			fixture.Must(fix.t, err)
			if grown := after.TotalBytes - before.TotalBytes; grown < more*9/10 || grown > more {
				fix.t.Errorf("it grew by %d bytes, want about %d", grown, more)
			}
		}
		fixture.Must(fix.t, root.Close())
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
	fix := newDeviceFixture(t, volume.XFS)
	fixture.Must(fix.t, filesystem.Make(fix.device.Path(), fix.dir, fix.spec()))
	fixture.Must(fix.t, os.WriteFile(filepath.Join(fix.path, "file"), []byte("first"), 0o600))
	fix.unmount()
	other := newDeviceFixture(t, volume.XFS)
	from, err := os.Open(fix.image.Name())
	fixture.Must(fix.t, err)
	defer from.Close()
	_, err = other.image.ReadFrom(from)
	fixture.Must(fix.t, err)
	fixture.Must(fix.t, other.image.Sync())
	fixture.Must(fix.t, filesystem.Mount(fix.device.Path(), fix.dir, fix.spec()))
	fixture.Must(fix.t, filesystem.Mount(other.device.Path(), other.dir, fix.spec()))
	if got, err := os.ReadFile(filepath.Join(other.path, "file")); string(got) != "first" {
		t.Errorf("the copy has %q, %v", got, err)
	}
}

func TestMissingProgramIsSaidWithItsRemedy(t *testing.T) {
	fix := newDeviceFixture(t, volume.Ext4)
	t.Setenv("PATH", t.TempDir())
	for name, err := range map[string]error{
		"make":  filesystem.Make(fix.device.Path(), fix.dir, fix.spec()),
		"mount": filesystem.Mount(fix.device.Path(), fix.dir, fix.spec()),
		"grow":  filesystem.Grow(fix.device.Path(), fix.path, fix.fsType),
	} {
		if !errors.Is(err, volume.ErrNode) {
			t.Errorf("%s says %v, want ErrNode", name, err)
		}
	}
}

func TestFrozenFilesystemHoldsItsWritersUntilTheThaw(t *testing.T) {
	onEach(t, func(fix *deviceFixture) {
		fixture.Must(fix.t, filesystem.Make(fix.device.Path(), fix.dir, fix.spec()))
		root := fix.root()
		defer root.Close()
		fixture.Must(fix.t, filesystem.Freeze(root))
		written := make(chan error, 1)
		go func() { written <- os.WriteFile(filepath.Join(fix.path, "file"), nil, 0o600) }()
		select {
		case err := <-written:
			fix.t.Errorf("a writer was not held: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if frozen, err := filesystem.Thaw(root); !frozen || err != nil {
			fix.t.Errorf("thawed: %t, %v", frozen, err)
		}
		fixture.Must(fix.t, <-written)
		if frozen, err := filesystem.Thaw(root); frozen || err != nil {
			fix.t.Errorf("thawed again: %t, %v", frozen, err)
		}
	})
}
