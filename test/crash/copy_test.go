package crash

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// TestCopyOutlivesItsCallAndNotItsDriver: shortly before its deadline a call is answered how far
// its copy is. The copy goes on after the call. If the driver is killed, the next start removes the
// unfinished copy, and the retry makes a whole one.
func TestCopyOutlivesItsCallAndNotItsDriver(t *testing.T) {
	binary := fixture.Build(t)
	n := newNode(t, binary, disks.New(t, disks.Ext4, 0).Dir+"/node")
	n.setPool(slowCopies)
	n.Start()
	source, err := n.create(t.Context(), "source", "DirectoryOrCreate")
	n.Must(err)
	data := bytes.Repeat([]byte("precious "), 3<<20)
	n.Must(os.WriteFile(n.Path("pool", "volumes", "source", "data", "file"), data, 0o600))
	copies := map[string]func(context.Context) (string, error){
		"snapshot": func(ctx context.Context) (string, error) { return n.takeSnapshot(ctx, "snapshot", source) },
		"clone": func(ctx context.Context) (string, error) {
			return n.copy(ctx, "clone", "DirectoryOrCreate", fixture.FromVolume(source))
		},
	}
	for name, run := range copies {
		killInTheMiddle(t, n, name, run)
		n.wantClean(0, source)
		n.wantSnapshots("")
	}
	n.setPool("")
	n.Start()
	snapshot, err := copies["snapshot"](t.Context())
	n.Must(err)
	clone, err := copies["clone"](t.Context())
	n.Must(err)
	for _, path := range []string{"snapshots/snapshot", "volumes/clone", "volumes/source"} {
		if got, err := os.ReadFile(dataPath(n.Path("pool", path)) + "/file"); err != nil ||
			!bytes.Equal(got, data) {
			t.Errorf("%s has %d bytes, %v, want %d", path, len(got), err, len(data))
		}
	}
	for _, id := range []string{source, clone} {
		n.Must(n.delete(t.Context(), id))
	}
	n.Must(n.deleteSnapshot(t.Context(), snapshot))
	n.wantClean(0)
}

// howFar is how an error says what was copied: (5 MiB in 0 files and directories copied in 4s).
var howFar = regexp.MustCompile(`\([0-9.]+ [KMG]?i?B.* in \d+ files and directories copied in `)

// killInTheMiddle begins a copy that takes 27 s, repeats the call once, and kills the driver before
// the copy is complete.
func killInTheMiddle(
	t *testing.T, n *node, what string, run func(context.Context) (string, error),
) {
	t.Helper()
	for range 2 { // the second call joins the copy
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := run(ctx)
		cancel()
		if status.Code(err) != codes.Aborted || !howFar.MatchString(err.Error()) {
			t.Errorf("%s: %v, want ABORTED and how far it is", what, err)
		}
	}
	if n, copied := n.metric("copies"), n.metric("copies_bytes"); n != 1 || copied == 0 {
		t.Errorf("%s: %d copies are under way, of %d bytes so far, want one", what, n, copied)
	}
	if got := n.Entries("pool", "tmp"); len(got) != 1 {
		t.Errorf("%s: tmp/ has %q, want one", what, got)
	}
	n.Start()
}
