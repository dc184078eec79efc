package hostpath

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// FuzzOpenStaysBeneathTheRoot opens any path that a pod can name. What is opened is in the allowed
// root, and nothing is made elsewhere. The root has links to everywhere.
func FuzzOpenStaysBeneathTheRoot(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: run `sudo make test`")
	}
	root, err := filepath.EvalSymlinks(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	for _, dir := range []string{"srv/a/b", "secret/b"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			f.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"srv/up": "..", "srv/abs": "/", "srv/a/s": "../../secret", "srv/m": "/proc/self/root", "l": "srv",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			f.Fatal(err)
		}
	}
	for _, path := range []string{
		"/srv/a/b", "/srv/../secret", "/srv/up/secret", "/srv/abs/etc", "/srv/a/s/b",
		"/srv/m/etc/shadow", "/l/a", "/srv//a", "/srv/./a", "/srv/a/", "/", "", "srv", "/srv/\x00",
		"/srv/new/deep", "/srv/a/b/c/../..", "/srvx", "/secret", "/srv/" + strings.Repeat("x", 300),
	} {
		f.Add(path, uint8(0))
		f.Add(path, uint8(1))
	}
	h := allow(root)
	f.Fuzz(func(t *testing.T, path string, n uint8) {
		wanted := volume.Types()[int(n)%len(volume.Types())]
		params, err := volume.ParseParameters(
			map[string]string{volume.ParamPath: path, volume.ParamType: string(wanted)},
		)
		if err != nil {
			return
		}
		f, err := h.Open(Use{Path: params.Path, Type: wanted}, params.Spec)
		if err != nil {
			return
		}
		defer f.Close()
		name, err := os.Readlink(openat.Path(f))
		if err != nil ||
			name != filepath.Join(root, "srv") && !strings.HasPrefix(name, filepath.Join(root, "srv")+"/") {
			t.Errorf("%q opens %q, %v", path, name, err)
		}
		if entries, err := os.ReadDir(filepath.Join(root, "secret")); err != nil || len(entries) != 1 {
			t.Errorf("%q has made something outside: %v, %v", path, entries, err)
		}
		_ = unix.Rmdir(name) // keeps the tree small
	})
}
