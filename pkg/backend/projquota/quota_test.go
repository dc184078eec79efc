//go:build vm

package projquota

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/backendtest"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// filesystems are the filesystems of the virtual machine's disks, by name.
var filesystems = []string{disks.Ext4, disks.XFS}

func opener(mode Mode) func(testing.TB, *os.File) backend.Backend {
	return func(t testing.TB, root *os.File) backend.Backend {
		t.Helper()
		b, ok, err := Open(root, mode)
		if err != nil || !ok {
			t.Fatalf("open: %t, %v", ok, err)
		}
		return b
	}
}

// newSubject makes a directory on the virtual machine's disk. Subjects share the disk, as pools
// may.
func newSubject(fstype string) func(testing.TB) backendtest.Subject {
	return func(t testing.TB) backendtest.Subject {
		t.Helper()
		dir, err := os.MkdirTemp(guest.Disk(t, fstype), "") //nolint:usetesting // on that disk
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		return backendtest.Subject{
			Dir: dir, Open: opener(Enforce), OpenLifted: opener(Lift),
			Slack:     64 << 10, // the directory, the blocks that map the file's
			ShowsSize: true,
		}
	}
}

func TestConformance(t *testing.T) {
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) { backendtest.Run(t, newSubject(fstype)) })
	}
}

// A kernel before Linux 5.14 has no quotactl_fd(2). Everything must work without it.
func TestConformanceByDevice(t *testing.T) {
	byDevice := func(mode Mode) func(testing.TB, *os.File) backend.Backend {
		return func(t testing.TB, root *os.File) backend.Backend {
			t.Helper()
			q, ok, err := findByDevice(root, deviceDir)
			if err != nil || !ok || q.device == nil {
				t.Fatalf("find: %+v, %t, %v", q, ok, err)
			}
			return newBackend(q, mode)
		}
	}
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			backendtest.Run(t, func(t testing.TB) backendtest.Subject {
				t.Helper()
				subject := newSubject(fstype)(t)
				subject.Open, subject.OpenLifted = byDevice(Enforce), byDevice(Lift)
				return subject
			})
		})
	}
}

// A container has no node of a device that appeared after its start.
func TestDeviceWithoutANodeGetsOne(t *testing.T) {
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			root, devices := open(t, guest.Disk(t, fstype)), t.TempDir()
			q, ok, err := findByDevice(root, devices)
			if err != nil || !ok {
				t.Fatalf("find: %t, %v", ok, err)
			}
			if err := q.setLimits(firstQuotaID, limits{bytes: 1 << 20}); err != nil {
				t.Error(err)
			}
			if got := guest.ProjectQuota(t, root.Name(), uint32(firstQuotaID)); got.LimitBytes != 1<<20 {
				t.Errorf("quota is %+v", got)
			}
			if err := q.setLimits(firstQuotaID, limits{}); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(devices); err != nil || len(left) > 0 {
				t.Errorf("left are %v, %v", left, err)
			}
		})
	}
}

func TestDeviceThatCannotBeHadIsSaid(t *testing.T) {
	root := open(t, guest.Disk(t, filesystems[0]))
	_, ok, err := findByDevice(root, filepath.Join(t.TempDir(), "absent"))
	if ok || !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "block device") {
		t.Errorf("find: %t, %v, want ErrUnavailable", ok, err)
	}
}

// Another file may have the device's name.
func TestNodeOfAnotherDeviceIsNotUsed(t *testing.T) {
	root, devices := open(t, guest.Disk(t, filesystems[0])), t.TempDir()
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	name, err := deviceName(st.Dev)
	if err != nil {
		t.Fatal(err)
	}
	other := int(unix.Mkdev(7, 99)) //nolint:gosec // a small number
	if err := unix.Mknod(filepath.Join(devices, name), unix.S_IFBLK|0o600, other); err != nil {
		t.Fatal(err)
	}
	q, ok, err := findByDevice(root, devices)
	if err != nil || !ok {
		t.Fatalf("find: %t, %v", ok, err)
	}
	if _, err := q.get(firstQuotaID); err != nil {
		t.Error(err)
	}
}

func BenchmarkProjectQuota(b *testing.B) {
	for _, fstype := range filesystems {
		b.Run(fstype, func(b *testing.B) { backendtest.Benchmark(b, newSubject(fstype)) })
	}
}

// A pod that owns its volume can remove the ID, unless it is in a user namespace of its own
// (docs/sizes.md). The next start sets it again.
func TestProjectThatWasTakenAwayIsPutBack(t *testing.T) {
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			subject := newSubject(fstype)(t)
			root, dir := open(t, subject.Dir), mkdir(t, filepath.Join(subject.Dir, "v"))
			b := subject.Open(t, root)
			f, quotaID, err := b.Make(dir, volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755}, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := ioctl(f, ioctlSetAttr, &attributes{}); err != nil {
				t.Fatal(err)
			}
			if repaired, err := subject.Open(t, root).Adopt(dir, quotaID, volume.Spec{}, 1<<20); !repaired ||
				err != nil {
				t.Errorf("adopt: %t, %v", repaired, err)
			}
			if have, err := getAttributes(f); err != nil || volume.QuotaID(have.project) != quotaID ||
				have.flags&inheritProject == 0 {
				t.Errorf("attributes are %+v, %v; want project %d", have, err, quotaID)
			}
		})
	}
}

// `cp -a` of a pool copies the records, but not the project IDs (docs/operations.md).
func TestCopiedVolumeIsCountedWhole(t *testing.T) {
	const bytes = 4 << 20
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			subject := newSubject(fstype)(t)
			dir := mkdir(t, filepath.Join(subject.Dir, "v"))
			sub := filepath.Join(dir.Name(), backend.Data, "a", "b")
			if err := os.MkdirAll(sub, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(sub, "file"), make([]byte, bytes/2), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/etc", filepath.Join(sub, "link")); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(filepath.Join(sub, "fifo"), 0o600); err != nil {
				t.Fatal(err)
			}
			b := subject.Open(t, open(t, subject.Dir))
			quotaID := firstQuotaID + 99
			if repaired, err := b.Adopt(dir, quotaID, volume.Spec{}, bytes); !repaired || err != nil {
				t.Fatalf("adopt: %t, %v", repaired, err)
			}
			data, err := backend.OpenData(dir, unix.O_PATH)
			if err != nil {
				t.Fatal(err)
			}
			defer data.Close()
			u, err := b.Usage(data, quotaID)
			if err != nil || u.UsedBytes < bytes/2 || u.TotalBytes != bytes {
				t.Errorf("usage is %+v, %v", u, err)
			}
			if a, err := getAttributes(open(t, "/etc")); err == nil && a.project == uint32(quotaID) {
				t.Error("a link was followed")
			}
		})
	}
}

// A deleted file that is still open counts: the limit stays, and the ID is not given to another
// volume, until the file is closed.
func TestIDThatStillCountsStaysLimited(t *testing.T) {
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			subject := newSubject(fstype)(t)
			b, _, err := Open(open(t, subject.Dir), Enforce)
			if err != nil {
				t.Fatal(err)
			}
			dir := mkdir(t, filepath.Join(subject.Dir, "v"))
			f, quotaID, err := b.Make(dir, volume.Spec{Type: volume.FileOrCreate, Mode: 0o600}, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := os.Remove(filepath.Join(dir.Name(), backend.Data)); err != nil {
				t.Fatal(err)
			}
			if err := b.Release(quotaID); !errors.Is(err, backend.ErrPending) {
				t.Fatalf("release: %v, want ErrPending", err)
			}
			if q, err := b.quota.get(quotaID); err != nil || q.blockHard == 0 {
				t.Errorf("quota is %+v, %v; want its limit", q, err)
			}
			if free, err := b.quota.isFree(quotaID); free || err != nil {
				t.Errorf("free: %t, %v", free, err)
			}
			// Nothing more can be written under a retired ID. 0 would be no limit. XFS rounds up to its
			// blocks.
			const block = 4 << 10 / blockBytes
			left, err := b.Retire(quotaID)
			q, getErr := b.quota.get(quotaID)
			if err != nil || getErr != nil || left != int64(q.curSpace) || //nolint:gosec // small
				q.blockHard == 0 || q.blockHard > limitBlocks(left)+block || q.inodeHard != 1 {
				t.Errorf("retire: %d bytes are left, %v; quota is %+v, %v", left, err, q, getErr)
			}
			f.Close()
			fixture.Eventually(t, "it counts no more", func() bool { return b.Release(quotaID) == nil })
			if q := guest.ProjectQuota(t, subject.Dir,
				uint32(quotaID)); q != (guest.Quota{}) { //nolint:gosec // an ID has 32 bits
				t.Errorf("quota is %+v, want none", q)
			}
		})
	}
}

// All kinds of files of a volume are its own. A deleted file that is open, and a file elsewhere
// that has the volume's ID, are not.
func TestOverchargeIsWhatIsNoneOfTheVolumesFiles(t *testing.T) {
	const size, count = 64 << 20, 100
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			subject := newSubject(fstype)(t)
			b, _, err := Open(open(t, subject.Dir), Enforce)
			fixture.Must(t, err)
			dir := mkdir(t, filepath.Join(subject.Dir, "v"))
			made, quotaID, err := b.Make(dir,
				volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o700}, size)
			fixture.Must(t, err)
			made.Close()
			data := filepath.Join(dir.Name(), backend.Data)
			sub := filepath.Join(data, "a", "b")
			fixture.Must(t, os.MkdirAll(sub, 0o700))
			for i := range count {
				name := filepath.Join(sub, strconv.Itoa(i))
				fixture.Must(t, os.WriteFile(name, make([]byte, 1000*i), 0o600))
				fixture.Must(t, os.Link(name, filepath.Join(data, "link-"+strconv.Itoa(i))))
				fixture.Must(t, os.Link(name, filepath.Join(data, "third-"+strconv.Itoa(i))))
				fixture.Must(t, os.Symlink(strings.Repeat("x", 10*i+1), name+"-symlink"))
				fixture.Must(t, unix.Mkfifo(name+"-fifo", 0o600))
			}
			fixture.Must(t, unix.Setxattr(sub, "user.x", make([]byte, 3000), 0))
			want := func(what string, bytes, inodes int64) {
				t.Helper()
				got, err := b.Overcharge(open(t, data), quotaID, func() error { return nil })
				// A file with several names is divided by their number.
				if err != nil || got.Bytes < bytes || got.Bytes > bytes+3*count ||
					got.Inodes < inodes || got.Inodes > inodes+1 {
					t.Errorf("%s: %+v, %v; want %d bytes in %d files", what, got, err, bytes, inodes)
				}
			}
			want("its own", 0, 0)
			const foreign = 1 << 20
			elsewhere := filepath.Join(subject.Dir, "elsewhere")
			fixture.Must(t, os.WriteFile(elsewhere, make([]byte, foreign), 0o600))
			f, err := os.OpenFile(elsewhere, os.O_RDWR, 0)
			fixture.Must(t, err)
			defer f.Close()
			fixture.Must(t, f.Sync()) // else XFS may have reserved more for it
			fixture.Must(t, setProject(f, quotaID))
			want("a file elsewhere", foreign, 1)
			deleted, err := os.Create(filepath.Join(sub, "deleted"))
			fixture.Must(t, err)
			defer deleted.Close()
			fixture.Must(t, os.Remove(deleted.Name()))
			want("a deleted one, too", foreign, 2)
			fixture.Must(t, os.Remove(elsewhere))
			stop := errors.New("stop")
			_, err = b.Overcharge(open(t, data), quotaID, func() error { return stop })
			if !errors.Is(err, stop) {
				t.Errorf("stopped: %v", err)
			}
		})
	}
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func mkdir(t *testing.T, path string) openat.Dir {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return openat.Dir{File: open(t, path)}
}

// ownerEnv names the environment variable that makes this test binary a pod's process, which
// removes the project ID of the directory that the variable has.
const ownerEnv = "PROJQUOTA_TEST_OWNER"

func TestMain(m *testing.M) {
	if path := os.Getenv(ownerEnv); path != "" {
		f, err := os.Open(path)
		if err == nil {
			err = ioctl(f, ioctlSetAttr, &attributes{})
		}
		if errno, ok := errors.AsType[unix.Errno](err); ok {
			os.Exit(int(errno))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// docs/sizes.md says who can leave a quota: the owner of a file, without any privilege, but nobody
// in a user namespace (fs/file_attr.c, fileattr_set_prepare).
func TestOwnerLeavesAQuotaUnlessInAUserNamespace(t *testing.T) {
	const owner = 1000
	for _, fstype := range filesystems {
		t.Run(fstype, func(t *testing.T) {
			subject := newSubject(fstype)(t)
			if err := os.Chmod(subject.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			b := subject.Open(t, open(t, subject.Dir))
			dir := mkdir(t, filepath.Join(subject.Dir, "v"))
			if err := dir.Chmod(0o755); err != nil {
				t.Fatal(err)
			}
			f, _, err := b.Make(dir,
				volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755, UID: owner, GID: owner}, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			id := []syscall.SysProcIDMap{{ContainerID: 0, HostID: owner, Size: 1}}
			for _, tt := range []struct {
				name string
				attr syscall.SysProcAttr
				want int
			}{
				{"in a user namespace", syscall.SysProcAttr{
					Cloneflags: unix.CLONE_NEWUSER, UidMappings: id, GidMappings: id,
					// its root, who is the owner
					Credential: &syscall.Credential{NoSetGroups: true},
				}, int(unix.EINVAL)},
				{"in the host's", syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner, Gid: owner}}, 0},
			} {
				pod := exec.CommandContext(t.Context(), "/proc/self/exe")
				pod.Env = []string{ownerEnv + "=" + filepath.Join(dir.Name(), backend.Data)}
				pod.SysProcAttr = &tt.attr
				if err := pod.Run(); pod.ProcessState.ExitCode() != tt.want {
					t.Errorf("%s: %v, want exit code %d", tt.name, err, tt.want)
				}
			}
		})
	}
}
