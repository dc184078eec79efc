package pool

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// meter is a limiter that counts all bytes and delays none.
type meter struct{ bytes atomic.Int64 }

func (m *meter) WaitN(_ context.Context, bytes int) error {
	m.bytes.Add(int64(bytes))
	return nil
}

// meteredContent is the content of the copied volume, in bytes.
const meteredContent = 3*mib + 4096

// Every copy that moves bytes asks the limiter of the target pool for all of them.
func TestEveryKindOfCopyAsksTheLimiter(t *testing.T) {
	for _, kind := range []struct {
		name string
		spec volume.Spec
		path string // the file with the content, relative to the volume's data
	}{
		{"directory", directory, "file"},
		{"file", volume.Spec{Type: volume.FileOrCreate, Mode: 0o600}, ""},
		{"image", imageSpec(volume.Ext4), ""},
		{"raw block", imageSpec(""), ""},
	} {
		t.Run(kind.name, func(t *testing.T) {
			p, other := poolOn(t, disks.Ext4), poolOn(t, disks.Ext4)
			req := request(t, "v", 16*mib)
			req.Spec = kind.spec
			v, err := p.Create(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			fillMetered(t, filepath.Join(dataPath(p, v.ID), kind.path))
			var s volume.Snapshot
			wantMetered(t, "snapshot", p, func() { s = snapshot(t, p, "s", v.ID) })
			for name, c := range map[string]struct {
				to     *Pool
				source volume.Source
			}{
				"restore": {p, volume.FromSnapshot(s.ID)},
				"clone":   {p, volume.FromVolume(v.ID)},
				"away":    {other, volume.FromSnapshot(s.ID)},
			} {
				req := from(t, name, c.source, 16*mib)
				req.Spec = kind.spec
				wantMetered(t, name, c.to, func() { restore(t, c.to, req, only{p, other}) })
			}
		})
	}
}

func fillMetered(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.Repeat("content ", meteredContent/8)); err != nil {
		t.Fatal(err)
	}
}

// wantMetered checks that a copy into a pool asks that pool's limiter for all of the content. The
// copy may ask for more, because copy_file_range(2) may copy less than requested, and the copy then
// asks again.
func wantMetered(t *testing.T, what string, on *Pool, run func()) {
	t.Helper()
	m := &meter{}
	on.copier.Throttle.Limiter = m
	run()
	on.copier.Throttle.Limiter = nil
	if got := m.bytes.Load(); got < meteredContent || got > 2*meteredContent {
		t.Errorf("%s: the limiter let %d bytes through, want %d", what, got, meteredContent)
	}
}
