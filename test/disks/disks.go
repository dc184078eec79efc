// Package disks gives a test a real filesystem of its own: a sparse image on a loop device,
// formatted and mounted, and gone with the test, however the test ends.
package disks

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The filesystems that New makes, by the names that mount(2) knows.
const (
	Ext4  = "ext4"
	XFS   = "xfs"
	Btrfs = "btrfs"
)

// DefaultSize is enough for each filesystem (mkfs.xfs refuses less than 300 MiB). The image is
// sparse: what is not written costs nothing.
const DefaultSize = 512 << 20

// ProjectQuotaEnv is set, to anything, on a machine whose kernel has project quotas: Types lists
// the filesystems that have them, and New turns them on. So what a test holds on each filesystem is
// seen to hold there too.
const ProjectQuotaEnv = "CSI_HOSTPATH_TEST_PROJECT_QUOTA"

// Types lists the filesystems, for a test that is to hold on each.
func Types() []string {
	if allWithProjectQuota() {
		return []string{Ext4, XFS}
	}
	return []string{Ext4, XFS, Btrfs}
}

// QuotaTypes lists those filesystems of Types that New makes with quotas.
func QuotaTypes() []string {
	if allWithProjectQuota() {
		return Types()
	}
	return []string{Btrfs}
}

func allWithProjectQuota() bool { return os.Getenv(ProjectQuotaEnv) != "" }

// Disk is a mounted filesystem.
type Disk struct {
	// Dir is the mount point: the filesystem's root, owned by root, mode 0755.
	Dir string
	// Device is the loop device.
	Device string
	// Image is the sparse file behind the device.
	Image string
}

// Option changes how a disk is made.
type Option func(*options)

type options struct {
	mkfs         []string
	data         string
	projectQuota bool
	below        string
}

// MkfsArgs are further arguments of mkfs, such as "-O", "quota,project" for ext4.
func MkfsArgs(args ...string) Option {
	return func(o *options) { o.mkfs = append(o.mkfs, args...) }
}

// MountData is the filesystem's own part of the mount options, such as "prjquota".
func MountData(data string) Option {
	return func(o *options) { o.data = data }
}

// ProjectQuota turns project quotas on. The test skips where the kernel has none: that of package
// vm has them.
func ProjectQuota() Option {
	return func(o *options) { o.projectQuota = true }
}

// On has the disk's image on another disk: when that one dies, each read and each write of this one
// is an error. What is mounted from it beside or below it, the test unmounts itself.
func On(other Disk) Option {
	return func(o *options) { o.below = other.Dir }
}

// RequireRoot skips the test when it does not run as root.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run `sudo make test`")
	}
}

// RequireMachineRoot skips the test in a user namespace too, as unshare(1) makes one: its root gets
// no loop devices. (user_namespaces(7), uid_map: outside of one, all IDs are mapped to themselves.)
func RequireMachineRoot(t testing.TB) {
	t.Helper()
	RequireRoot(t)
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatalf("disks: %v", err)
	}
	if !slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"}) {
		t.Skip("needs the machine's root, not that of a user namespace: run `sudo make test`")
	}
}

// New makes a filesystem of size bytes (0: DefaultSize) and mounts it. It skips the test where that
// cannot be done at all (not root, no loop devices, no mkfs, a kernel without the filesystem) and
// fails it where it goes wrong. When the test ends, everything mounted from the disk or below it is
// unmounted, wherever it is, and the disk is removed. What a killed test leaves is removed by the
// next New.
func New(t testing.TB, fstype string, size int64, opts ...Option) Disk {
	t.Helper()
	RequireMachineRoot(t)
	o := options{projectQuota: allWithProjectQuota() && fstype != Btrfs}
	for _, opt := range opts {
		opt(&o)
	}
	if size == 0 {
		size = DefaultSize
	}
	o.addProjectQuota(t, fstype)
	slot, err := reserve(t.Logf)
	if err != nil {
		t.Fatalf("disks: %v", err)
	}
	t.Cleanup(func() {
		if err := slot.release(); err != nil {
			t.Errorf("disks: %v", err)
		}
	})
	disk := Disk{Dir: slot.mountPoint(), Image: slot.image()}
	if o.below != "" {
		disk.Image = filepath.Join(o.below, filepath.Base(slot.dir))
	}
	if err := format(t, disk.Image, fstype, size, o.mkfs); err != nil {
		t.Fatalf("disks: %v", err)
	}
	if disk.Device, err = mountImage(disk, fstype, o.data); err != nil {
		skipIfImpossible(t, fstype, o, err)
		t.Fatalf("disks: %v", err)
	}
	return disk
}

// format makes the filesystem in the image itself, so that no device event races with it.
func format(t testing.TB, image, fstype string, size int64, args []string) error {
	t.Helper()
	program, quick := Mkfs(fstype)
	if program == "" {
		return fmt.Errorf("filesystem %q is none of %v", fstype, Types())
	}
	path, err := lookPath(program)
	if err != nil {
		t.Skipf("needs %s: run hack/ensure-packages as root", program)
	}
	if err := sparse(image, size); err != nil {
		return err
	}
	args = append(append(quick, args...), image)
	for begin := time.Now(); ; {
		out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
		switch {
		case err == nil:
			return nil
		case !bytes.Contains(out, []byte(deadNeighbor)) || time.Since(begin) > neighborPatience:
			return fmt.Errorf("%s %v: %w: %s", program, args, err, out)
		}
		time.Sleep(neighborPause)
	}
}

// mkfs.btrfs looks at every mounted loop device, and gives up over one whose disk has died: a test
// of another package lets one die for a moment.
const (
	deadNeighbor     = "cannot check mount status"
	neighborPatience = 30 * time.Second
	neighborPause    = 50 * time.Millisecond
)

// Mkfs is the program that makes a filesystem in an image and the arguments that make it quick and
// quiet; none for one that New does not make.
func Mkfs(fstype string) (program string, args []string) {
	switch fstype {
	case Ext4:
		return "mkfs.ext4", []string{"-q", "-F", "-E", "nodiscard"}
	case XFS:
		return "mkfs.xfs", []string{"-q", "-f", "-K"} // with reflinks: its default since 5.1
	case Btrfs:
		return "mkfs.btrfs", []string{"-q", "-f", "-K"}
	default:
		return "", nil
	}
}

// ProjectQuotaArgs are the arguments of mkfs and the mount data that turn project quotas on; none
// for a filesystem without.
func ProjectQuotaArgs(fstype string) (mkfs []string, data string) {
	switch fstype {
	case Ext4:
		return []string{"-O", "quota,project", "-E", "nodiscard,quotatype=prjquota"}, "prjquota"
	case XFS:
		return nil, "prjquota"
	default:
		return nil, ""
	}
}

func (o *options) addProjectQuota(t testing.TB, fstype string) {
	t.Helper()
	if !o.projectQuota {
		return
	}
	mkfs, data := ProjectQuotaArgs(fstype)
	if data == "" {
		t.Fatalf("disks: %s has no project quotas", fstype)
	}
	o.mkfs = append(o.mkfs, mkfs...)
	if o.data != "" {
		data = o.data + "," + data
	}
	o.data = data
}

// lookPath looks in /usr/sbin too, which `su` leaves out of PATH.
func lookPath(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", program))
}

func sparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// mountImage attaches the image and mounts it. The device frees itself once nothing is mounted from
// it.
func mountImage(disk Disk, fstype, data string) (string, error) {
	device, err := attach(disk.Image)
	if err != nil {
		return "", err
	}
	defer device.Close() // from here on the mount holds the device
	if err := unix.Mount(device.Name(), disk.Dir, fstype, 0, data); err != nil {
		return "", &os.PathError{Op: "mount " + fstype, Path: device.Name(), Err: err}
	}
	return device.Name(), nil
}

// skipIfImpossible skips for what no change to this project could mend.
func skipIfImpossible(t testing.TB, fstype string, o options, err error) {
	t.Helper()
	switch {
	case errors.Is(err, errNoLoop):
		t.Skipf("needs loop devices: %v", err)
	case o.projectQuota && errors.Is(err, unix.EINVAL):
		t.Skipf("needs a kernel with project quotas on %s: run the package's tests with test/vm: %v",
			fstype, err)
	case errors.Is(err, unix.ENODEV):
		t.Skipf("needs a kernel with %s: %v", fstype, err)
	}
}
