package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	clients = 32
	// cycles is how often each client makes all calls: often enough for the clients to meet, and not
	// too often for the race detector.
	cycles = 4
)

// TestRacingClients runs the driver under the race detector.
func TestRacingClients(t *testing.T) {
	// room for all volumes together, because purges may come late
	disk := disks.New(t, disks.Ext4, 3*clients*cycles*volumeBytes/2)
	binary, err := process.BuildRace(t.Context(), t.TempDir())
	fixture.Must(t, err)
	t.Run("on their own volumes never meet",
		func(t *testing.T) { raceApart(t, newNode(t, binary, filepath.Join(disk.Dir, "own"))) })
	t.Run("on one volume leave one state",
		func(t *testing.T) { raceTogether(t, newNode(t, binary, filepath.Join(disk.Dir, "one"))) })
}

// raceApart gives each client a volume of its own. Every call must succeed, whatever the other
// clients do.
func raceApart(t *testing.T, n *node) {
	t.Helper()
	n.Start()
	var wg sync.WaitGroup
	for i := range clients {
		name := fmt.Sprintf("own-%d", i)
		target := n.target(name)
		wg.Go(func() {
			for range cycles {
				if err := n.cycle(name, target); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	n.wantNoRaces()
}

// cycle takes a volume through its life, until the first call that fails.
func (n *node) cycle(name, target string) error {
	ctx := n.t.Context()
	id, err := n.create(ctx, name, "DirectoryOrCreate")
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	for range 2 { // kubelet often publishes again
		if err := n.publish(ctx, id, target); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	path := file(target, "DirectoryOrCreate")
	if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
		return err
	}
	if got, err := os.ReadFile(path); string(got) != name || err != nil {
		return fmt.Errorf("%s has %q, %w", path, got, err)
	}
	if err := n.unpublish(ctx, id, target); err != nil {
		return fmt.Errorf("unpublish: %w", err)
	}
	if err := n.delete(ctx, id); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// wantNoRaces ends the driver. The race detector reports in the driver's log and in its exit code.
func (n *node) wantNoRaces() {
	n.t.Helper()
	n.wantClean(0)
	n.Stop()
	if strings.Contains(n.Log(), "DATA RACE") {
		n.t.Error("the race detector has found a race: see the log")
	}
}

// raceTogether lets all clients work on one volume. Calls may fail, but only with the codes that
// the CSI spec has for such conflicts.
func raceTogether(t *testing.T, n *node) {
	t.Helper()
	n.Start()
	allowed := []codes.Code{
		codes.OK,
		codes.Aborted,            // another call on the volume is under way
		codes.FailedPrecondition, // deletes a volume that another client has published
		codes.NotFound,           // publishes a volume that another client has deleted
	}
	id, err := n.create(t.Context(), "shared", "DirectoryOrCreate")
	n.Must(err)
	var wg sync.WaitGroup
	for i := range clients {
		target := n.target(fmt.Sprintf("pod-%d", i%4)) // some clients share a target
		wg.Go(func() {
			ctx := t.Context()
			for range cycles {
				_, created := n.create(ctx, "shared", "DirectoryOrCreate")
				for _, err := range []error{
					created, n.publish(ctx, id, target), n.unpublish(ctx, id, target), n.delete(ctx, id),
				} {
					if !slices.Contains(allowed, status.Code(err)) {
						t.Errorf("client %d: %v", i, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := len(n.volumes()); n > 1 {
		t.Errorf("%d volumes are left, want at most one", n)
	}
	for i := range 4 {
		n.Must(n.unpublish(t.Context(), id, n.target(fmt.Sprintf("pod-%d", i))))
	}
	n.Must(n.delete(t.Context(), id))
	n.wantNoRaces()
}
