package hostpaths

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
)

// owned is a path's group and mode.
type owned struct {
	group uint32
	mode  os.FileMode
}

func (w *world) owned(path string) owned {
	w.t.Helper()
	info, err := os.Lstat(path)
	w.must(err)
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		w.t.Fatal("no stat_t")
	}
	return owned{st.Gid, info.Mode()}
}

func (v volumeOf) inGroup(group string) volumeOf {
	v.group = group
	return v
}

func (v volumeOf) asReadOnly() volumeOf {
	v.readOnly = true
	return v
}

// A pod's fsGroup, which kubelet leaves to the driver (VOLUME_MOUNT_GROUP), reaches the volumes
// that are made for pods.
func TestFSGroupMayWriteToWhatIsMadeForPods(t *testing.T) {
	w := newWorld(t, "[]")
	managed := func(name string, attributes ...string) volumeOf { return w.ofClass(podA, name, attributes...) }
	for title, tc := range map[string]struct {
		v    volumeOf
		want owned
	}{
		"claim":           {managed("pvc-dir"), owned{2000, os.ModeDir | os.ModeSetgid | 0o775}},
		"claim of a file": {managed("pvc-file", "type", "FileOrCreate"), owned{2000, 0o664}},
		"mode of a class": {managed("pvc-mode", "mode", "0700", "gid", "5"), owned{2000, os.ModeDir | os.ModeSetgid | 0o770}},
		"inline":          {inline(podA, "dir", "mode", "0750"), owned{2000, os.ModeDir | os.ModeSetgid | 0o770}},
		"memory":          {inline(podA, "memory", "medium", "Memory", "size", "1Mi"), owned{2000, os.ModeDir | os.ModeSetgid | 0o777}},
		"read-only":       {managed("pvc-ro").asReadOnly(), owned{0, os.ModeDir | 0o755}},
	} {
		t.Run(title, func(t *testing.T) {
			v := tc.v.inGroup("2000")
			for range 2 {
				w.must(w.publish(v))
			}
			if got := w.owned(w.target(v)); got != tc.want {
				t.Errorf("the target has %v, want %v", got, tc.want)
			}
			w.must(w.unpublish(v))
		})
	}
}

// kubelet itself would walk the path and give the group every file of the node below it.
func TestFSGroupChangesNothingOfTheNode(t *testing.T) {
	w := newWorld(t, everything)
	w.write(w.path("srv/file"), content)
	dir, file := w.owned(w.path("srv")), w.owned(w.path("srv/file"))
	for _, v := range []volumeOf{
		inline(podA, "v", "path", w.path("srv"), "type", "Directory"),
		persistent(podA, "pv", "path", w.path("srv/file"), "type", "File"),
		w.ofClass(podA, "pvc-1", "path", w.path("srv/new"), "type", "DirectoryOrCreate"),
	} {
		v = v.inGroup("2000")
		for range 2 {
			w.must(w.publish(v))
		}
		w.must(w.unpublish(v))
	}
	if got := w.owned(w.path("srv")); got != dir {
		t.Errorf("the directory has %v, it had %v", got, dir)
	}
	if got := w.owned(w.path("srv/file")); got != file {
		t.Errorf("the file has %v, it had %v", got, file)
	}
	if got, want := w.owned(w.path("srv/new")), (owned{0, os.ModeDir | 0o755}); got != want {
		t.Errorf("what was made has %v, want %v", got, want)
	}
}

func TestTwoGroupsOnOneVolumeTakeTurns(t *testing.T) {
	w := newWorld(t, "[]")
	first := w.ofClass(podA, "pvc-1").inGroup("2000")
	second := first.inGroup("3000")
	second.pod = podB
	w.must(w.publish(first))
	w.write(filepath.Join(w.target(first), "file"), content)
	w.must(w.publish(second))
	if got := w.owned(w.target(first)).group; got != 3000 {
		t.Errorf("the volume has group %d, want that of the last pod", got)
	}
	if got := w.owned(filepath.Join(w.target(second), "file")).group; got != 2000 {
		t.Errorf("the first pod's file has group %d, want that of when it was made", got)
	}
	w.must(w.unpublish(first))
	w.must(w.unpublish(second))
}

func TestHostileGroupIsRefused(t *testing.T) {
	w := newWorld(t, everything)
	for _, group := range []string{"-1", "4294967295", "staff", "2000,mode=7777", "0x7d0"} {
		for _, v := range []volumeOf{
			w.ofClass(podA, "pvc-1"), inline(podA, "memory", "medium", "Memory", "size", "1Mi"),
			inline(podA, "path", "path", w.path("srv"), "type", "Directory"),
		} {
			w.wantCode(w.publish(v.inGroup(group)), codes.InvalidArgument, "volume_mount_group")
		}
	}
	if m := w.mounts(); len(m) > 0 {
		t.Errorf("mounted all the same: %q", m)
	}
}
