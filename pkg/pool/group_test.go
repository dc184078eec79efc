package pool

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

// giveTo sets the group of a volume's root as a publication does.
func giveTo(t *testing.T, p *Pool, id volume.ID, group uint32) {
	t.Helper()
	data, err := openData(p, id)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	if err := SetGroup(t.Context(), data, volume.Group{ID: group, Given: true}); err != nil {
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
	p := newPool(t)
	v := create(t, p, "v", mib)
	root := dataPath(p, v.ID)
	writeTree(t, root, map[string]string{"old": "content"})
	giveTo(t, p, v.ID, 2000)
	wantGroup(t, root, 2000, 0o2775)
	wantGroup(t, filepath.Join(root, "old"), 0, 0o600)
	if err := os.Mkdir(filepath.Join(root, "new"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantGroup(t, filepath.Join(root, "new"), 2000, 0o2755)
	// Two pods with two groups: the last one has it.
	giveTo(t, p, v.ID, 3000)
	wantGroup(t, root, 3000, 0o2775)
	p = restart(t, p)
	if got, err := p.Get(v.ID); err != nil || got.Spec != v.Spec {
		t.Errorf("the record says %+v, %v, want %+v", got.Spec, err, v.Spec)
	}
	wantGroup(t, root, 3000, 0o2775)
}

func TestGroupOfAFileGetsNoSetIDBit(t *testing.T) {
	p := newPool(t)
	req := request(t, "v", mib)
	req.Spec = volume.Spec{Type: volume.FileOrCreate, Mode: 0o644}
	v, err := p.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dataPath(p, v.ID), os.ModeSetuid|os.ModeSetgid|0o755); err != nil {
		t.Fatal(err)
	}
	giveTo(t, p, v.ID, 2000)
	wantGroup(t, dataPath(p, v.ID), 2000, 0o775)
}

// Nothing is written when there is nothing to change: the root's ctime is what backup programs go
// by.
func TestGroupThatHasAVolumeChangesNothing(t *testing.T) {
	p := newPool(t)
	v := create(t, p, "v", mib)
	giveTo(t, p, v.ID, 2000)
	changed := func() syscall.Timespec {
		info, err := os.Stat(dataPath(p, v.ID))
		if err != nil {
			t.Fatal(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			t.Fatal("no stat_t")
		}
		return st.Ctim
	}
	before := changed()
	giveTo(t, p, v.ID, 2000)
	if after := changed(); after != before {
		t.Errorf("the root was changed at %v and again at %v", before, after)
	}
}

func TestGroupOfAReadOnlyFilesystemIsUnavailable(t *testing.T) {
	disk := disks.New(t, disks.Ext4, 0)
	if err := unix.Mount("", disk.Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	data, err := os.OpenFile(disk.Dir, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	if err := SetGroup(
		t.Context(),
		data,
		volume.Group{ID: 2000, Given: true},
	); !errors.Is(
		err, volume.ErrUnavailable,
	) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}
