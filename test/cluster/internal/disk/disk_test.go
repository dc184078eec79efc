package disk

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
