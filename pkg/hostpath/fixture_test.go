package hostpath

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// newTree makes a directory in the role of the node's root. Whatever is mounted below it is
// unmounted after the test.
func newTree(t *testing.T) string {
	t.Helper()
	disks.RequireRoot(t)
	root := t.TempDir()
	t.Cleanup(func() {
		mounts, err := mount.Table()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range slices.Backward(mounts) {
			if strings.HasPrefix(m.Point, root+"/") {
				if err := unix.Unmount(m.Point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
					t.Errorf("unmount %s: %v", m.Point, err)
				}
			}
		}
	})
	return root
}

func mkdir(t *testing.T, elements ...string) string {
	t.Helper()
	path := filepath.Join(elements...)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func bind(t *testing.T, source, point string) {
	t.Helper()
	if err := unix.Mount(source, point, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

// putKind makes a file of a type.
func putKind(t *testing.T, path string, kind uint32) {
	t.Helper()
	var err error
	switch kind {
	case unix.S_IFDIR:
		err = os.Mkdir(path, 0o755)
	case unix.S_IFREG:
		err = os.WriteFile(path, nil, 0o600)
	case unix.S_IFSOCK, unix.S_IFIFO:
		err = unix.Mknod(path, kind|0o600, 0)
	case unix.S_IFCHR:
		err = unix.Mknod(path, kind|0o600, int(unix.Mkdev(1, 3))) //nolint:gosec // null: a small number
	case unix.S_IFBLK:
		err = unix.Mknod(path, kind|0o600,
			int(unix.Mkdev(7, 0))) //nolint:gosec // a loop device: a small number
	}
	if err != nil {
		t.Fatal(err)
	}
}

// allow returns a host with one rule, for everything below /srv.
func allow(root string) *Host {
	return NewHost(root, NewRules([]Rule{{Path: "/srv", Inline: true}}))
}

// try opens a path and closes it; the use's type is put into the specification.
func (h *Host) try(use Use, spec volume.Spec) error {
	spec.Type = use.Type
	f, err := h.Open(use, spec)
	if err != nil {
		return err
	}
	return f.Close()
}

func wantError(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}
