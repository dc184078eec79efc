package openat

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func wantMode(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if have := disks.ACLsOf(t, path); info.Mode() != mode || len(have) > 0 {
		t.Errorf("%s has mode %v and the ACLs %v, want %v and none", path, info.Mode(), have, mode)
	}
}

func TestACLsOfAnyFileAreRemovedThroughItsDescriptor(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			root := disks.New(t, fstype, 0).Dir
			file := filepath.Join(root, "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			disks.SetACL(t, file)
			disks.SetACL(t, root)
			disks.SetDefaultACL(t, root)
			for _, path := range []string{file, root, file} {
				f, err := openFile(unix.AT_FDCWD, path, unix.O_PATH, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := RemoveACLs(f); err != nil {
					t.Error(err)
				}
				f.Close()
			}
			wantMode(t, file, 0o775)
			wantMode(t, root, os.ModeDir|0o775)
		})
	}
}

func TestWhatIsInheritedIsRemovedAndTheModeIsExact(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			root := disks.New(t, fstype, 0).Dir
			d, err := OpenDir(root)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			disks.SetDefaultACL(t, root)
			if err := unix.Mkdirat(d.FD(), "dir", 0o750); err != nil {
				t.Fatal(err)
			}
			if f, err := d.Create("file"); err != nil {
				t.Fatal(err)
			} else {
				f.Close()
			}
			if have := disks.ACLsOf(t, filepath.Join(root, "dir")); len(have) != 2 {
				t.Fatalf("the directory has inherited %v, want two: the test shows nothing", have)
			}
			if err := RemoveInheritedACLs(d.FD(), "dir", unix.S_IFDIR|0o750); err != nil {
				t.Error(err)
			}
			if err := RemoveInheritedACLs(d.FD(), "file", unix.S_IFREG|0o640); err != nil {
				t.Error(err)
			}
			wantMode(t, filepath.Join(root, "dir"), os.ModeDir|0o750)
			wantMode(t, filepath.Join(root, "file"), 0o640)
		})
	}
}
