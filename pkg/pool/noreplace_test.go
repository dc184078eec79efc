package pool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Somebody may put a directory into volumes/ or snapshots/ while the driver runs. rename(2) would
// replace an empty one without an error.
func TestWhatWasPutThereByHandIsNotReplaced(t *testing.T) {
	for _, tc := range []struct {
		title, path string
		make        func(t *testing.T, p *Pool, source volume.ID) error
	}{
		{"volume", volumesDir + "/new", func(t *testing.T, p *Pool, _ volume.ID) error {
			t.Helper()
			_, err := p.Create(t.Context(), request(t, "new", mib))
			return err
		}},
		{"snapshot", snapshotsDir + "/new", func(t *testing.T, p *Pool, source volume.ID) error {
			t.Helper()
			_, err := p.CreateSnapshot(t.Context(), snapshotRequest(t, "new", source))
			return err
		}},
	} {
		t.Run(tc.title, func(t *testing.T) {
			p := newPool(t)
			source := create(t, p, "source", mib).ID
			path := filepath.Join(p.opts.Path, tc.path)
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			before := inodeOf(t, path)
			if err := tc.make(t, p, source); !errors.Is(err, volume.ErrCorrupt) {
				t.Errorf("%v, want ErrCorrupt", err)
			}
			if inodeOf(t, path) != before || len(entries(t, path)) > 0 {
				t.Errorf("%s was replaced", tc.path)
			}
			waitPurged(t, p)
			wantLedger(t, p, mib, 0)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := tc.make(t, p, source); err != nil {
				t.Errorf("when it is gone: %v", err)
			}
		})
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// Another process may have made a pool of the directory meanwhile: its volumes have IDs of that
// pool's UUID.
func TestMarkerOfAPoolIsNotReplaced(t *testing.T) {
	const content = "another's"
	dir := t.TempDir()
	path := filepath.Join(dir, markerFile)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := openat.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := initialize(root); !errors.Is(err, os.ErrExist) {
		t.Errorf("%v, want EEXIST", err)
	}
	if got, err := os.ReadFile(path); string(got) != content || err != nil {
		t.Errorf("%s has %q, %v, want %q", markerFile, got, err, content)
	}
}
