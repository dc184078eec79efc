package disk

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFilesystemsAreSpreadOverNodes(t *testing.T) {
	tests := []struct {
		list  string
		count int
		want  []Filesystem
	}{
		{"xfs", 3, []Filesystem{XFS, XFS, XFS}},
		{"btrfs, ext4", 3, []Filesystem{Btrfs, Ext4, Btrfs}},
	}
	for _, test := range tests {
		got, err := ParseFilesystems(test.list, test.count)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%q over %d nodes = %v, %v, want %v", test.list, test.count, got, err, test.want)
		}
	}
}

func TestUnknownOrTooManyFilesystemsAreRefused(t *testing.T) {
	for _, list := range []string{"", "zfs", "xfs,", "xfs,ext4,btrfs"} {
		if got, err := ParseFilesystems(list, 2); err == nil {
			t.Errorf("%q was accepted as %v", list, got)
		}
	}
}

func TestDiskIsSparseAndNotMadeTwice(t *testing.T) {
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("needs mkfs.ext4")
	}
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := Create(t.Context(), path, Ext4, 1<<30); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != 1<<30 {
		t.Fatalf("size %d, %v, want 1 GiB", info.Size(), err)
	}
	if err := Create(t.Context(), path, Ext4, 1<<30); err == nil {
		t.Fatal("an existing disk was formatted again")
	}
}

func TestLoopIsKnownByTheFilesystemOfItsFile(t *testing.T) {
	loop := Loop{BackingFile: "/data/image", BackingDevice: 1, BackingInode: 1}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "data", "image"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if loop.BackedIn(root, "/data") {
		t.Fatal("a loop device of another file with the same path was taken for ours")
	}
}

// A raw block volume has a device of the driver, a guard above it, and the kubelet's
// own device above that: all of them keep the node's disk busy.
func TestLoopsAboveOthersAreFoundAndDetachedFirst(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: losetup")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var devices []string
	for backing := image; len(devices) < 3; backing = devices[len(devices)-1] {
		out, err := exec.Command("losetup", "--find", "--show", backing).CombinedOutput()
		if err != nil {
			t.Fatalf("losetup of %s: %v: %s", backing, err, out)
		}
		device := strings.TrimSpace(string(out))
		devices = append(devices, device)
		t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() }) // it is gone already
	}
	loops, err := Loops()
	if err != nil {
		t.Fatal(err)
	}
	inHost := func(path string) string { return filepath.Join("/", path) }
	isBase := func(l Loop) bool { return l.path() == image && l.IsBackedBy(inHost) }
	found := WithThoseAbove(loops, isBase)
	var got []string
	for _, loop := range found {
		got = append(got, loop.Device)
		if err := loop.Detach(); err != nil {
			t.Error(err)
		}
	}
	slices.Reverse(devices)
	if !slices.Equal(got, devices) {
		t.Errorf("found %q, want %q", got, devices)
	}
	left, err := Loops()
	if err != nil {
		t.Fatal(err)
	}
	for _, loop := range left {
		if slices.Contains(found, loop) {
			t.Errorf("%s is still attached to %s", loop.Device, loop.BackingFile)
		}
	}
}
