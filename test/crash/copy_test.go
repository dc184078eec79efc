package crash

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// TestCopyOutlivesItsCallAndNotItsDriver: a call is told before its deadline how far its copy is;
// the copy goes on without it, until the driver is killed; then nothing is left of it, and the
// retry makes all of it.
func TestCopyOutlivesItsCallAndNotItsDriver(t *testing.T) {
	binary := buildDriver(t,
		func(ctx context.Context, dir string) (string, error) { return process.Build(ctx, dir) })
	w := newWorld(t, binary, disks.New(t, disks.Ext4, 0).Dir+"/world")
	w.slow = true
	w.start()
	source, err := w.create(t.Context(), "source", "DirectoryOrCreate")
	w.must(err)
	data := bytes.Repeat([]byte("precious "), 1<<20)
	w.must(os.WriteFile(w.path("pool", "volumes", "source", "data", "file"), data, 0o600))
	copies := map[string]func(context.Context) (string, error){
		"snapshot": func(ctx context.Context) (string, error) { return w.takeSnapshot(ctx, "snapshot", source) },
		"clone": func(ctx context.Context) (string, error) {
			return w.copy(ctx, "clone", "DirectoryOrCreate", fromVolume(source))
		},
	}
	for name, run := range copies {
		killInTheMiddle(t, w, name, run)
		w.wantClean(0, source)
		w.wantSnapshots("")
	}
	w.slow = false
	w.restart()
	snapshot, err := copies["snapshot"](t.Context())
	w.must(err)
	clone, err := copies["clone"](t.Context())
	w.must(err)
	for _, path := range []string{"snapshots/snapshot", "volumes/clone", "volumes/source"} {
		if got, err := os.ReadFile(dataPath(w.path("pool", path)) + "/file"); err != nil ||
			!bytes.Equal(got, data) {
			t.Errorf("%s has %d bytes, %v, want %d", path, len(got), err, len(data))
		}
	}
	for _, id := range []string{source, clone} {
		w.must(w.delete(t.Context(), id))
	}
	w.must(w.deleteSnapshot(t.Context(), snapshot))
	w.wantClean(0)
}

// killInTheMiddle makes a copy that takes 9 s, asks again once, and kills the driver before it is
// done.
func killInTheMiddle(
	t *testing.T, w *world, what string, run func(context.Context) (string, error),
) {
	t.Helper()
	for range 2 { // the second call joins
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := run(ctx)
		cancel()
		if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "bytes in") {
			t.Errorf("%s: %v, want ABORTED and how far it is", what, err)
		}
	}
	if n, copied := w.metric("copies"), w.metric("copies_bytes"); n != 1 || copied == 0 {
		t.Errorf("%s: %d copies are under way, of %d bytes so far, want one", what, n, copied)
	}
	if got := w.entries("pool", "tmp"); len(got) != 1 {
		t.Errorf("%s: tmp/ has %q, want one", what, got)
	}
	w.restart()
}
