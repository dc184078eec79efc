package fsgroup

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
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

func unlocked() (unlock func(), err error) { return func() {}, nil }

// set sets the group of a volume's root as a publication does.
func set(t *testing.T, root string, group uint32) error {
	t.Helper()
	data, err := os.OpenFile(root, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	groups := Start(t.Context(), nil)
	defer groups.Close()
	return groups.Set(t.Context(), Request{
		Data: data, Group: volume.Group{ID: group, Given: true}, Lock: unlocked,
	})
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
	wantGroup(t, filepath.Join(root, "old"), 2000, 0o660)
	if err := os.Mkdir(filepath.Join(root, "new"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantGroup(t, filepath.Join(root, "new"), 2000, 0o2755)
	// Two pods with two groups: the last one has it.
	giveTo(t, root, 3000)
	wantGroup(t, root, 3000, 0o2775)
	wantGroup(t, filepath.Join(root, "new"), 3000, 0o2775)
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

// The mode's group bits are the mask of an ACL: the group's own entry has to change as well. The
// first publication may have been one of an older version, which has changed the mask only.
func TestGroupOfAVolumeWithAnACLMayWrite(t *testing.T) {
	for _, fstype := range disks.Types() {
		t.Run(fstype, func(t *testing.T) {
			dir := filepath.Join(disks.New(t, fstype, 0).Dir, "data")
			file := filepath.Join(filepath.Dir(dir), "file")
			if err := errors.Join(os.Mkdir(dir, 0o750), os.WriteFile(file, nil, 0o640)); err != nil {
				t.Fatal(err)
			}
			for path, mode := range map[string]uint32{dir: 0o2775, file: 0o675} {
				disks.SetACL(t, path)
				if err := unix.Chown(path, -1, 2000); err != nil {
					t.Fatal(err)
				}
				if err := unix.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
				wantAccess(t, path, unix.EACCES)
				giveTo(t, path, 2000)
				wantGroup(t, path, 2000, mode)
				wantAccess(t, path, nil)
				if have := disks.ACLsOf(t, path); len(have) != 1 {
					t.Errorf("%s has the ACLs %v, want its own", path, have)
				}
			}
		})
	}
}

// wantAccess asks whether a member of the group 2000 may write.
func wantAccess(t *testing.T, path string, want error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := errors.Join(unix.Setfsgid(2000), unix.Setfsuid(5000))
		if info, statErr := os.Stat(path); statErr != nil || info.IsDir() {
			path = filepath.Join(path, "new")
		}
		f, openErr := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		f.Close()
		done <- errors.Join(err, openErr)
	}()
	if err := <-done; !errors.Is(err, want) {
		t.Errorf("a member of the group: %v, want %v", err, want)
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
