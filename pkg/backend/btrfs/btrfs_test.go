package btrfs

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/backendtest"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func opener(mode Mode) func(testing.TB, *os.File) backend.Backend {
	return func(t testing.TB, root *os.File) backend.Backend {
		t.Helper()
		b, ok, err := Open(klog.Background(), root, mode)
		if err != nil || !ok {
			t.Fatalf("open: %t, %v", ok, err)
		}
		return b
	}
}

// newSubject makes a filesystem with that accounting.
func newSubject(kind accounting) func(testing.TB) backendtest.Subject {
	return func(t testing.TB) backendtest.Subject {
		t.Helper()
		s := backendtest.Subject{
			Dir:        disks.New(t, disks.Btrfs, 0).Dir,
			Open:       opener(Enforce),
			OpenLifted: opener(Lift),
			Slack:      512 << 10,
			// Copy on write needs room to remove, but not to unlink
			// (btrfs_start_transaction_fallback_global_rsv).
			TruncateNeeds: 128 << 10,
		}
		root, err := os.Open(s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		fs := filesystem{root: root}
		switch kind {
		case full:
			err = ioctl(root, iocQuotaCtl, "enable quotas", &quotaArgs{cmd: quotaEnable})
		case simple:
			err = ioctl(root, iocQuotaCtl, "enable simple quotas", &quotaArgs{cmd: quotaEnableSimple})
		case none:
			s.Open = opener(Lift)
		}
		if err != nil {
			t.Skipf("needs a kernel with these quotas: %v", err)
		}
		if got, _, err := fs.status(); err != nil || got != kind {
			t.Fatalf("accounting is %d, %v, want %d", got, err, kind)
		}
		return s
	}
}

var kinds = map[string]accounting{"simple quotas": simple, "full quotas": full, "no quotas": none}

func TestConformance(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) { backendtest.Run(t, newSubject(kind)) })
	}
}

func BenchmarkBtrfs(b *testing.B) {
	for name, kind := range kinds {
		b.Run(name, func(b *testing.B) { backendtest.Benchmark(b, newSubject(kind)) })
	}
}

// The sizes of the kernel's structures (include/uapi/linux/btrfs.h) on 64-bit machines.
func TestStructuresAreTheKernels(t *testing.T) {
	for name, size := range map[string][2]uintptr{
		"btrfs_ioctl_vol_args_v2":        {unsafe.Sizeof(volArgs{}), 4096},
		"btrfs_qgroup_inherit + u64":     {unsafe.Sizeof(qgroupInherit{}), 72 + 8},
		"btrfs_qgroup_limit":             {unsafe.Sizeof(limits{}), 40},
		"btrfs_ioctl_qgroup_limit_args":  {unsafe.Sizeof(limitArgs{}), 48},
		"btrfs_ioctl_quota_ctl_args":     {unsafe.Sizeof(quotaArgs{}), 16},
		"btrfs_ioctl_qgroup_create_args": {unsafe.Sizeof(createArgs{}), 16},
		"btrfs_ioctl_qgroup_assign_args": {unsafe.Sizeof(assignArgs{}), 24},
		"btrfs_ioctl_ino_lookup_args":    {unsafe.Sizeof(lookupArgs{}), 4096},
		"btrfs_ioctl_search_args_v2":     {unsafe.Offsetof(searchArgs{}.buffer), 112},
	} {
		if size[0] != size[1] {
			t.Errorf("struct %s has %d bytes, the kernel's %d", name, size[0], size[1])
		}
	}
}

const mib = 1 << 20

func newVolume(
	t *testing.T, kind accounting, bytes int64,
) (b *Btrfs, dir openat.Dir, quotaID volume.QuotaID) {
	t.Helper()
	subject := newSubject(kind)(t)
	root := open(t, subject.Dir)
	b, ok, err := Open(klog.Background(), root, Enforce)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	dir = mkdir(t, filepath.Join(subject.Dir, "v"))
	f, quotaID, err := b.Make(dir, volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755}, bytes)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return b, dir, quotaID
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

func subvolume(t *testing.T, path string) {
	t.Helper()
	parent := open(t, filepath.Dir(path))
	if err := createSubvolume(parent, filepath.Base(path), 0); err != nil {
		t.Fatal(err)
	}
	parent.Close()
}

// To make a subvolume needs no privilege.
func TestSubvolumeInAVolumeDoesNotEscape(t *testing.T) {
	_, dir, _ := newVolume(t, simple, 4*mib)
	inner := filepath.Join(dir.Name(), backend.Data, "inner")
	subvolume(t, inner)
	subvolume(t, filepath.Join(inner, "inner"))
	err := os.WriteFile(filepath.Join(inner, "inner", "file"), make([]byte, 5*mib), 0o600)
	if !errors.Is(err, unix.EDQUOT) {
		t.Errorf("5 MiB in a volume of 4 MiB: %v, want EDQUOT", err)
	}
}

// A pod may leave subvolumes in others, at paths that are too long for a system call, read-only and
// immutable ones.
func TestDiscardRemovesWhateverSubvolumesAPodLeaves(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			b, dir, quotaID := newVolume(t, kind, 64*mib)
			data := filepath.Join(dir.Name(), backend.Data)
			var locked []string
			for _, name := range []string{"a", "a/b", "a/b/c", "d"} {
				subvolume(t, filepath.Join(data, name))
				locked = append([]string{filepath.Join(data, name)}, locked...)
			}
			plantDeep(t, filepath.Join(data, "a", "deep"))
			for _, path := range append(locked, data) {
				f := open(t, path)
				readOnly := uint64(1 << 1) // BTRFS_SUBVOL_RDONLY
				if err := ioctl(f, iocSetFlags, "set read-only", &readOnly); err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
			if err := b.Discard(dir); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(dir.Name()); err != nil || len(left) > 0 {
				t.Errorf("left are %v, %v", left, err)
			}
			wantReleased(t, b, quotaID)
		})
	}
}

// A pod can nest as many subvolumes as its volume has space for: little may be remembered of each,
// and nothing on the stack.
func TestDiscardRemovesSubvolumesNestedToAnyDepth(t *testing.T) {
	const depth = 2000
	b, dir, quotaID := newVolume(t, simple, 400*mib)
	at := open(t, filepath.Join(dir.Name(), backend.Data))
	for range depth {
		if err := createSubvolume(at, "s", 0); err != nil {
			t.Fatal(err)
		}
		next, err := openat.Dir{File: at}.OpenUnmounted("s")
		at.Close()
		if err != nil {
			t.Fatal(err)
		}
		at = next.File
	}
	at.Close()
	defer debug.SetMaxStack(debug.SetMaxStack(128 << 10)) // a recursion ends the test
	if err := b.Discard(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir.Name()); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	wantReleased(t, b, quotaID)
}

// plantDeep makes a subvolume at the end of a path that is longer than PATH_MAX.
func plantDeep(t *testing.T, top string) {
	t.Helper()
	at := mkdir(t, top)
	name := strings.Repeat("n", 200)
	for range 25 {
		if err := unix.Mkdirat(at.FD(), name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := at.OpenUnmounted(name)
		if err != nil {
			t.Fatal(err)
		}
		at.Close()
		at = next
	}
	defer at.Close()
	if err := createSubvolume(at.File, "deepest", 0); err != nil {
		t.Fatal(err)
	}
}

func wantReleased(t *testing.T, b *Btrfs, quotaID volume.QuotaID) {
	t.Helper()
	fixture.Eventually(t, "the quota group is released", func() bool {
		err := b.Release(quotaID)
		if !errors.Is(err, backend.ErrPending) {
			fixture.Must(t, err)
		}
		return err == nil
	})
	if data, err := b.fs.quotaItem(qgroupInfo, groupOf(quotaID)); data != nil || err != nil {
		t.Errorf("the group is still there: %v, %v", data, err)
	}
}

// A crash after the group was made leaves it without a subvolume and without a record.
func TestGroupThatACrashLeftIsUsedAgain(t *testing.T) {
	b, _, quotaID := newVolume(t, simple, 4*mib)
	left := quotaID + 1
	if free, err := b.fs.createGroup(left); !free || err != nil {
		t.Fatal(free, err)
	}
	if free, err := b.fs.createGroup(quotaID); free || err != nil {
		t.Errorf("a group with a subvolume is free: %t, %v", free, err)
	}
	if free, err := b.fs.createGroup(left); !free || err != nil {
		t.Errorf("a group without a subvolume is free: %t, %v", free, err)
	}
}

// `btrfs quota disable` removes all groups.
func TestQuotasTurnedOffAndOnAgainArePutRight(t *testing.T) {
	for _, kind := range []accounting{simple, full} {
		_, dir, quotaID := newVolume(t, kind, 4*mib)
		root := open(t, filepath.Dir(dir.Name()))
		if err := ioctl(root, iocQuotaCtl, "disable quotas", &quotaArgs{cmd: 2}); err != nil {
			t.Fatal(err)
		}
		b, _, err := Open(klog.Background(), root, Enforce)
		if err != nil || !b.Enforces() {
			t.Fatalf("open: %v", err)
		}
		if repaired, err := b.Adopt(dir, quotaID, volume.Spec{}, 4*mib); !repaired || err != nil {
			t.Errorf("adopt: %t, %v", repaired, err)
		}
		if err := os.WriteFile(
			filepath.Join(dir.Name(), backend.Data, "file"),
			make([]byte, 5*mib),
			0o600,
		); !errors.Is(err, unix.EDQUOT) {
			t.Errorf("5 MiB in a volume of 4 MiB: %v, want EDQUOT", err)
		}
	}
}
