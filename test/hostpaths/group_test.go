package hostpaths

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
)

// owned is the group and the mode of a path.
type owned struct {
	group uint32
	mode  os.FileMode
}

func (n *node) owned(path string) owned {
	n.t.Helper()
	info, err := os.Lstat(path)
	n.Must(err)
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		n.t.Fatal("no stat_t")
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

// Kubelet leaves a pod's fsGroup to the driver (VOLUME_MOUNT_GROUP), which gives it to volumes that
// are made for pods.
func TestFSGroupMayWriteToWhatIsMadeForPods(t *testing.T) {
	n := newNode(t, "[]")
	managed := func(name string, attributes ...string) volumeOf {
		return n.ofClass(podA, name, attributes...)
	}
	const shared = os.ModeDir | os.ModeSetgid
	for title, tc := range map[string]struct {
		v    volumeOf
		want owned
	}{
		"claim":           {managed("pvc-dir"), owned{2000, shared | 0o775}},
		"claim of a file": {managed("pvc-file", "type", "FileOrCreate"), owned{2000, 0o664}},
		"mode of a class": {managed("pvc-mode", "mode", "0700", "gid", "5"), owned{2000, shared | 0o770}},
		"inline":          {inline(podA, "dir", "mode", "0750"), owned{2000, shared | 0o770}},
		"memory": {
			inline(podA, "memory", "medium", "Memory", "size", "1Mi"), owned{2000, shared | 0o777},
		},
		"read-only": {managed("pvc-ro").asReadOnly(), owned{0, os.ModeDir | 0o755}},
	} {
		t.Run(title, func(t *testing.T) {
			v := tc.v.inGroup("2000")
			for range 2 {
				n.Must(n.publish(v))
			}
			if got := n.owned(n.target(v)); got != tc.want {
				t.Errorf("the target has %v, want %v", got, tc.want)
			}
			n.Must(n.unpublish(v))
		})
	}
}

// Without VOLUME_MOUNT_GROUP kubelet would give the group every file of the node below the path.
func TestFSGroupChangesNothingOfTheNode(t *testing.T) {
	n := newNode(t, everything)
	n.write(n.Path("srv/file"), content)
	dir, file := n.owned(n.Path("srv")), n.owned(n.Path("srv/file"))
	for _, v := range []volumeOf{
		inline(podA, "v", "path", n.Path("srv"), "type", "Directory"),
		persistent(podA, "pv", "path", n.Path("srv/file"), "type", "File"),
		n.ofClass(podA, "pvc-1", "path", n.Path("srv/new"), "type", "DirectoryOrCreate"),
	} {
		v = v.inGroup("2000")
		for range 2 {
			n.Must(n.publish(v))
		}
		n.Must(n.unpublish(v))
	}
	if got := n.owned(n.Path("srv")); got != dir {
		t.Errorf("the directory has %v, it had %v", got, dir)
	}
	if got := n.owned(n.Path("srv/file")); got != file {
		t.Errorf("the file has %v, it had %v", got, file)
	}
	if got, want := n.owned(n.Path("srv/new")), (owned{0, os.ModeDir | 0o755}); got != want {
		t.Errorf("the new file has %v, want %v", got, want)
	}
}

func TestTwoGroupsOnOneVolumeTakeTurns(t *testing.T) {
	n := newNode(t, "[]")
	first := n.ofClass(podA, "pvc-1").inGroup("2000")
	second := first.inGroup("3000")
	second.pod = podB
	n.Must(n.publish(first))
	n.write(filepath.Join(n.target(first), "file"), content)
	n.Must(n.publish(second))
	if got := n.owned(n.target(first)).group; got != 3000 {
		t.Errorf("the volume has group %d, want that of the last pod", got)
	}
	if got := n.owned(filepath.Join(n.target(second), "file")).group; got != 3000 {
		t.Errorf("the first pod's file has group %d, want that of the last pod", got)
	}
	n.Must(n.unpublish(first))
	n.Must(n.unpublish(second))
}

func TestHostileGroupIsRefused(t *testing.T) {
	n := newNode(t, everything)
	for _, group := range []string{"-1", "4294967295", "staff", "2000,mode=7777", "0x7d0"} {
		for _, v := range []volumeOf{
			n.ofClass(podA, "pvc-1"), inline(podA, "memory", "medium", "Memory", "size", "1Mi"),
			inline(podA, "path", "path", n.Path("srv"), "type", "Directory"),
		} {
			n.wantCode(n.publish(v.inGroup(group)), codes.InvalidArgument, "volume_mount_group")
		}
	}
	if m := n.Mounts(); len(m) > 0 {
		t.Errorf("the refused call has mounted %q", m)
	}
}
