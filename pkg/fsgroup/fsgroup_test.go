package fsgroup

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// newRoot makes the root of a volume's data, with the mode that it has without a class's.
func newRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// set sets the group of a volume's root as a publication does.
func set(t *testing.T, root string, group uint32) error {
	t.Helper()
	data, err := os.OpenFile(root, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	return Set(t.Context(), data, volume.Group{ID: group, Given: true})
}

func giveTo(t *testing.T, root string, group uint32) {
	t.Helper()
	if err := set(t, root, group); err != nil {
		t.Error(err)
	}
}

func wantGroup(t *testing.T, path string, group, mode uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Gid != group || st.Mode&^unix.S_IFMT != mode {
		t.Errorf("%s has group %d and mode %04o, want %d and %04o", path, st.Gid, st.Mode&^unix.S_IFMT,
			group, mode)
	}
}

func TestGroupGetsTheRootOfAVolumeAndWhatIsMadeThere(t *testing.T) {
	root := newRoot(t)
	if err := os.WriteFile(filepath.Join(root, "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	giveTo(t, root, 2000)
	wantGroup(t, root, 2000, 0o2775)
	wantGroup(t, filepath.Join(root, "old"), 0, 0o600)
	if err := os.Mkdir(filepath.Join(root, "new"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantGroup(t, filepath.Join(root, "new"), 2000, 0o2755)
	// Two pods with two groups: the last one has it.
	giveTo(t, root, 3000)
	wantGroup(t, root, 3000, 0o2775)
}

func TestGroupOfAFileGetsNoSetIDBit(t *testing.T) {
	root := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(root, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, os.ModeSetuid|os.ModeSetgid|0o755); err != nil {
		t.Fatal(err)
	}
	giveTo(t, root, 2000)
	wantGroup(t, root, 2000, 0o775)
}

// Nothing is written when there is nothing to change: the root's ctime is what backup programs go
// by.
func TestGroupThatHasAVolumeChangesNothing(t *testing.T) {
	root := newRoot(t)
	giveTo(t, root, 2000)
	changed := func() syscall.Timespec {
		var st syscall.Stat_t
		if err := syscall.Stat(root, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ctim
	}
	before := changed()
	giveTo(t, root, 2000)
	if after := changed(); after != before {
		t.Errorf("the root was changed at %v and again at %v", before, after)
	}
}

func TestGroupOfAReadOnlyFilesystemIsUnavailable(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 0)
	if err := unix.Mount("", disk.Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := set(t, disk.Dir, 2000); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}
