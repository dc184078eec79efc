package pool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Somebody may put a directory into volumes/ or snapshots/ while the driver runs. rename(2) would
// replace an empty one without an error.
func TestWhatWasPutThereByHandIsNotReplaced(t *testing.T) {
	for _, tc := range []struct {
		title, path string
		make        func(t *testing.T, p *Pool, source volume.ID) error
	}{
		{"volume", layout.VolumesDir + "/new", func(t *testing.T, p *Pool, _ volume.ID) error {
			t.Helper()
			_, err := p.Create(t.Context(), request(t, "new", mib))
			return err
		}},
		{"snapshot", layout.SnapshotsDir + "/new", func(t *testing.T, p *Pool, source volume.ID) error {
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
