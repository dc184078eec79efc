package pool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const mib = 1 << 20

// openPool opens the pool and closes it when the test ends, unless the test has closed it.
func openPool(t *testing.T, opts Options) *Pool {
	t.Helper()
	disks.RequireRoot(t)
	p, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return p
}

// refused returns the error of Open.
func refused(t *testing.T, opts Options) error {
	t.Helper()
	p, err := Open(t.Context(), opts)
	if err == nil {
		closePool(t, p)
		t.Fatalf("%s was opened as a pool", opts.Path)
	}
	if strings.Contains(err.Error(), "%!") {
		t.Errorf("%q has a fault of fmt.Errorf", err)
	}
	return err
}

// newPool returns a new pool in a directory of the test.
func newPool(t *testing.T) *Pool {
	t.Helper()
	return openPool(t, Options{Name: "p", Path: filepath.Join(t.TempDir(), "pool")})
}

// restart closes the pool and opens it again.
func restart(t *testing.T, p *Pool) *Pool {
	t.Helper()
	closePool(t, p)
	return openPool(t, p.opts)
}

func closePool(t *testing.T, p *Pool) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

var directory = volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755}

// request returns a request for a directory volume of exactly that size.
func request(t *testing.T, name string, bytes int64) volume.CreateRequest {
	t.Helper()
	parsed, err := volume.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return volume.CreateRequest{
		Name: parsed,
		Size: volume.SizeRange{Required: bytes, Limit: bytes},
		Spec: directory,
	}
}

func create(t *testing.T, p *Pool, name string, bytes int64) volume.Volume {
	t.Helper()
	v, err := p.Create(t.Context(), request(t, name, bytes))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func remove(t *testing.T, p *Pool, id volume.ID) {
	t.Helper()
	if err := p.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// dataPath returns the path of a volume's data, as an administrator would find it.
func dataPath(p *Pool, id volume.ID) string {
	dir := filepath.Join(p.opts.Path, layout.VolumesDir, id.Dir())
	if held := filepath.Join(dir, backend.Holder, backend.Data); pathExists(held) {
		return held
	}
	return filepath.Join(dir, backend.Data)
}

func pathExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func status(t *testing.T, p *Pool) Status {
	t.Helper()
	s, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantLedger compares the bytes that the ledger counts.
func wantLedger(t *testing.T, p *Pool, committed, trash int64) {
	t.Helper()
	if s := status(t, p); s.CommittedBytes != committed || s.TrashBytes != trash ||
		s.AvailableBytes < 0 {
		t.Errorf("ledger has %d committed and %d in the trash (%d available), want %d and %d",
			s.CommittedBytes, s.TrashBytes, s.AvailableBytes, committed, trash)
	}
}

func wantEntries(t *testing.T, p *Pool, dirName string, want ...string) {
	t.Helper()
	if got := entries(t, filepath.Join(p.opts.Path, dirName)); !slices.Equal(got, want) {
		t.Errorf("%s/ has %q, want %q", dirName, got, want)
	}
}

// entries returns the names in a directory, sorted.
func entries(t *testing.T, path string) []string {
	t.Helper()
	list, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// waitPurged waits until trash/ and tmp/ are empty, and the ledger counts nothing for them.
func waitPurged(t *testing.T, p *Pool) {
	t.Helper()
	eventually(t, "the trash is purged", func() bool {
		left := append(
			entries(t, filepath.Join(p.opts.Path, layout.TrashDir)),
			entries(t, filepath.Join(p.opts.Path, layout.TmpDir))...)
		return len(left) == 0 && status(t, p).TrashBytes == 0
	})
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	fixture.Eventually(t, what, done)
}

// writeTree makes files and, for names that end in a slash, directories.
func writeTree(t *testing.T, root string, tree map[string]string) {
	t.Helper()
	for name, content := range tree {
		path := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// listTree returns every path below root, with the content of the files.
func listTree(t *testing.T, root string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name := strings.TrimPrefix(path, root+"/")
		if d.IsDir() {
			tree[name+"/"] = ""
			return nil
		}
		content, err := os.ReadFile(path) //nolint:gosec // nobody exchanges anything there
		tree[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
