// Package backendtest has the tests and benchmarks that run with every backend, on a filesystem of
// its own.
package backendtest

import (
	"os"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

const (
	mib  = 1 << 20
	size = 4 * mib
	// block is how many bytes a writer writes at a time.
	block = 4096
)

// Subject is a backend and a filesystem for it. The backends of one subject share the filesystem,
// as pools may.
type Subject struct {
	// Dir is an empty directory of the filesystem. It belongs to root.
	Dir string
	// Open opens a backend as a start of the driver does.
	Open func(t testing.TB, root *os.File) backend.Backend
	// OpenLifted opens a backend as a start with `quota: off` does. A backend that never enforces
	// sizes does not need it.
	OpenLifted func(t testing.TB, root *os.File) backend.Backend
	// Slack is how many bytes below its size a volume may be full: what the filesystem counts besides
	// content.
	Slack int64
	// TruncateNeeds is how many bytes must be free so that a file can be truncated.
	TruncateNeeds int64
	// ShowsSize means that df in a directory volume shows the volume's size, not the filesystem's.
	ShowsSize bool
}

// Run runs every case, each on a subject of its own.
func Run(t *testing.T, newSubject func(testing.TB) Subject) {
	t.Helper()
	cases := []struct {
		name     string
		run      func(fix *backendFixture)
		enforces bool // makes sense only where sizes are enforced
	}{
		{name: "data has exactly its mode and owner", run: testModeAndOwner},
		{name: "a failed make leaves nothing", run: testFailedMake},
		{name: "a removed volume leaves nothing", run: testRemove},
		{name: "usage is what was written", run: testUsage},
		{name: "a full directory is full, its neighbour is not", run: testFullDirectory, enforces: true},
		{name: "a full file is full", run: testFullFile, enforces: true},
		{name: "no link, rename or open file escapes", run: testEscapes, enforces: true},
		{name: "a file never moves from volume to volume", run: testMoves, enforces: true},
		{name: "resizing is online, both ways", run: testResize, enforces: true},
		{name: "inodes are limited, and growing leaves them so", run: testInodes, enforces: true},
		{name: "a limit of inodes is put right", run: testInodesRestart, enforces: true},
		{name: "a restart finds all as it was", run: testRestart, enforces: true},
		{name: "a limit that is gone is put right", run: testRepair, enforces: true},
		{name: "a limit is lifted when quotas are off", run: testLift, enforces: true},
		{
			name: "data without a quota ID is not enforced and hurts nobody", run: testUntagged,
			enforces: true,
		},
		{name: "a quota ID is given out once", run: testQuotaIDs, enforces: true},
		{name: "a quota ID is not given out before its release", run: testReserved, enforces: true},
		{name: "df shows the size", run: testShownSize, enforces: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			fix := newBackendFixture(t, newSubject(t))
			if c.enforces && !fix.backend.Enforces() {
				t.Log("nothing to see: this backend enforces nothing")
				return
			}
			c.run(fix)
		})
	}
}

// Benchmark measures the operations of a backend. Compare it with plain on the same filesystem.
func Benchmark(b *testing.B, newSubject func(testing.TB) Subject) {
	b.Helper()
	for _, volumeType := range volume.ManagedTypes() {
		b.Run("Make/"+string(volumeType), func(b *testing.B) {
			fix := newBackendFixture(b, newSubject(b))
			dirs := make([]openat.Dir, b.N)
			for i := range dirs {
				dirs[i] = fix.mkdir()
			}
			for b.ResetTimer(); b.N > 0 && len(dirs) > 0; dirs = dirs[1:] {
				f, _, err := fix.backend.Make(dirs[0], spec(volumeType), size)
				fixture.Must(fix.t, err)
				f.Close()
			}
		})
	}
	b.Run("Usage", func(b *testing.B) {
		fix := newBackendFixture(b, newSubject(b))
		v := fix.make(volume.DirectoryOrCreate)
		for b.Loop() {
			_, err := fix.backend.Usage(v.data, v.quotaID)
			fixture.Must(fix.t, err)
		}
	})
	b.Run("Adopt", func(b *testing.B) {
		fix := newBackendFixture(b, newSubject(b))
		v := fix.make(volume.DirectoryOrCreate)
		for b.Loop() {
			_, err := fix.reopen().Adopt(v.dir, v.quotaID, v.spec, size)
			fixture.Must(fix.t, err)
		}
	})
}
