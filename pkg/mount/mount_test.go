package mount

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// The kinds of files that can be bound, and be in the way.
type kind string

const (
	absent      kind = "absent"
	emptyDir    kind = "empty directory"
	fullDir     kind = "directory with a file"
	emptyFile   kind = "empty file"
	fullFile    kind = "file with content"
	linkToDir   kind = "link to a directory"
	linkToFile  kind = "link to a file"
	danglingTo  kind = "dangling link"
	fifo        kind = "fifo"
	fullContent      = "precious"
)

// newBase makes a directory in the role of kubelet's. Whatever is mounted below it is unmounted
// after the test.
func newBase(t *testing.T) string {
	t.Helper()
	disks.RequireRoot(t)
	base := t.TempDir()
	t.Cleanup(func() { unmountBelow(t, base) })
	return base
}

// unmountBelow unmounts everything in a test's directory, so that its removal removes nothing else.
func unmountBelow(t *testing.T, base string) {
	t.Helper()
	mounts, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Backward(mounts) {
		if _, ok := below(base, m.Point); !ok {
			continue
		}
		if err := unix.Unmount(m.Point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			t.Errorf("unmount %s: %v", m.Point, err)
		}
	}
}

func target(t *testing.T, base, rel string) Target {
	t.Helper()
	parsed, err := ParseTarget(base, filepath.Join(base, rel))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// newSource makes a volume's data outside of kubelet's directory and opens it as a pool does.
func newSource(t *testing.T, k kind) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	put(t, path, k)
	return pinned(t, path)
}

func pinned(t *testing.T, path string) *os.File {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { f.Close() })
	return f
}

// put makes a file at a path. The target of a link is beside the link.
func put(t *testing.T, path string, k kind) {
	t.Helper()
	var err error
	switch k {
	case absent:
	case emptyDir:
		err = os.Mkdir(path, 0o755)
	case fullDir:
		put(t, path, emptyDir)
		put(t, filepath.Join(path, "file"), fullFile)
	case emptyFile:
		err = os.WriteFile(path, nil, 0o644)
	case fullFile:
		err = os.WriteFile(path, []byte(fullContent), 0o644)
	case linkToDir:
		put(t, path+".real", fullDir)
		err = os.Symlink(path+".real", path)
	case linkToFile:
		put(t, path+".real", fullFile)
		err = os.Symlink(path+".real", path)
	case danglingTo:
		err = os.Symlink(path+".nowhere", path)
	case fifo:
		err = unix.Mkfifo(path, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// treeState describes everything below a path, to compare before and after: names, types, links,
// contents.
func treeState(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		line := d.Type().String() + " " + path
		switch {
		case d.Type()&os.ModeSymlink != 0:
			to, err := os.Readlink(path)
			all = append(all, line+" -> "+to)
			return err
		case d.Type().IsRegular():
			content, err := os.ReadFile(path) //nolint:gosec // nobody exchanges it meanwhile
			all = append(all, line+" = "+string(content))
			return err
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func wantTreeState(t *testing.T, root string, want []string) {
	t.Helper()
	if got := treeState(t, root); !slices.Equal(got, want) {
		t.Errorf("%s was touched: it has\n%s\nand had\n%s", root, strings.Join(got, "\n"),
			strings.Join(want, "\n"))
	}
}

//nolint:revive // readOnly is a column of the tests' tables
func options(t *testing.T, readOnly bool, flags ...string) Options {
	t.Helper()
	o, err := ParseOptions(flags)
	if err != nil {
		t.Fatal(err)
	}
	if readOnly {
		o = o.AsReadOnly()
	}
	return o
}

// mountsAt returns the lines of the mount table for a path, the topmost last.
func mountsAt(t *testing.T, path string) []mountutils.MountInfo {
	t.Helper()
	infos, err := mountutils.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(infos,
		func(m mountutils.MountInfo) bool { return m.MountPoint != escape(path) })
}

func wantMounts(t *testing.T, path string, want int) {
	t.Helper()
	if got := mountsAt(t, path); len(got) != want {
		t.Errorf("%d mounts at %s, want %d: %+v", len(got), path, want, got)
	}
}

// mountByHand makes a bind mount as an administrator would.
func mountByHand(t *testing.T, source, point string) {
	t.Helper()
	if err := unix.Mount(source, point, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

func wantAbsent(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s is there (%v)", path, err)
	}
}
