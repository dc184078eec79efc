package projquota

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestFilesystemWithoutQuotasIsNotUsed(t *testing.T) {
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, ok, err := Open(root, Enforce); ok || err != nil {
		t.Errorf("open: %t, %v; want false", ok, err)
	}
}

// Before Linux 5.14 the driver needs the device of a filesystem only if the filesystem has quotas.
func TestFilesystemWithoutQuotasNeedsNoDevice(t *testing.T) {
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, ok, err := findByDevice(root, "/nowhere"); ok || err != nil {
		t.Errorf("find: %t, %v; want false", ok, err)
	}
}

// The sizes of the kernel's structures (linux/quota.h, linux/dqblk_xfs.h, linux/fs.h) on 64-bit
// machines.
func TestStructuresAreTheKernels(t *testing.T) {
	for name, size := range map[string][2]uintptr{
		"if_dqblk":      {unsafe.Sizeof(dqblk{}), 72},
		"fs_quota_stat": {unsafe.Sizeof(quotaStat{}), 80},
		"fsxattr":       {unsafe.Sizeof(attributes{}), 28},
	} {
		if size[0] != size[1] {
			t.Errorf("struct %s has %d bytes, the kernel's %d", name, size[0], size[1])
		}
	}
}

// Data that has lost its ID gets it again at the start, while records are read: it must not take
// the descriptors that these need, however deep the tree is.
func TestDeepTreeGetsItsProjectWithFewDescriptors(t *testing.T) {
	root := mkdirDeep(t, disks.New(t, disks.XFS, 0).Dir, 4*assignDepth)
	defer root.Close()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(
		unix.RLIMIT_NOFILE,
		&unix.Rlimit{Cur: assignDepth + 200, Max: old.Max},
	); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old) //nolint:errcheck // it was so before
	err := assignProject(root, firstQuotaID)
	if err == nil || errors.Is(err, unix.EMFILE) {
		t.Errorf("a tree of %d levels: %v, want an error that says so", 4*assignDepth, err)
	}
}

// A process of a pod can make whoever opens its file wait (a lease).
func TestLeasedFileDoesNotHoldUpTheStart(t *testing.T) {
	dir := disks.New(t, disks.XFS, 0).Dir
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	leased, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer leased.Close()
	if _, err := unix.FcntlInt(leased.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := assignProject(root, firstQuotaID); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a leased file: %v, want EAGAIN", err)
	}
}

// An owner may change the project ID of a file, and what is in the way of looking at one file must
// not keep the others.
func TestRechargeFindsWhatCountsForAnotherProject(t *testing.T) {
	const own, other = firstQuotaID + 1, firstQuotaID + 2
	dir := disks.New(t, disks.XFS, 0).Dir
	data, outside := filepath.Join(dir, "data"), filepath.Join(dir, "outside")
	sub := filepath.Join(data, "a")
	for _, path := range []string{data, sub, filepath.Join(sub, "b"), outside} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"mine", "a/stray", "a/b/stray", "leased"} {
		if err := os.WriteFile(filepath.Join(data, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(data, "link")); err != nil {
		t.Fatal(err)
	}
	root := openFile(t, data)
	if err := assignProject(root, own); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "a/stray", "a/b", "a/b/stray"} {
		if err := setProject(openFile(t, filepath.Join(data, name)), other); err != nil {
			t.Fatal(err)
		}
	}
	leased, err := os.OpenFile(filepath.Join(data, "leased"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer leased.Close()
	if _, err := unix.FcntlInt(leased.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	strays := []string{"", "a/b", "a/b/stray", "a/stray"}
	for _, step := range []struct {
		set  bool
		want []string
	}{{false, strays}, {true, strays}, {true, nil}} {
		var found, failed []string
		err := Recharge(openFile(t, data), own, Report{
			Found: func(path string, project volume.QuotaID) bool {
				if project != other {
					t.Errorf("%q counts for project %d, want %d", path, project, other)
				}
				found = append(found, path)
				return step.set
			},
			Failed: func(path string, err error) {
				if errors.Is(err, unix.EAGAIN) {
					failed = append(failed, path)
				}
			},
		})
		slices.Sort(found)
		if err != nil || !slices.Equal(found, step.want) || !slices.Equal(failed, []string{"leased"}) {
			t.Errorf("found %q, failed %q, %v; want %q and the leased file", found, failed, err, step.want)
		}
	}
	if a, err := getAttributes(openFile(t, outside)); err != nil || a.project != 0 {
		t.Errorf("what a link shows has project %d, %v", a.project, err)
	}
	if err := Recharge(root, 1<<40, Report{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("with a quota group of btrfs: %v, want ErrUnsupported", err)
	}
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// mkdirDeep makes directories, each in the one before, and opens the first.
func mkdirDeep(t *testing.T, path string, levels int) *os.File {
	t.Helper()
	root, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	at := int(root.Fd())
	for range levels {
		err := unix.Mkdirat(at, "d", 0o700)
		next := -1
		if err == nil {
			next, err = unix.Openat(at, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		if at != int(root.Fd()) {
			unix.Close(at)
		}
		at = next
	}
	unix.Close(at)
	return root
}
