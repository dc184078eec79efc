package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// A pod writes, appends, renames and removes files all the time. No copy fails, and every file of a
// copy has content that the pod has written.
func TestPodMayWriteWhileItsVolumeIsCopied(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		v := create(t, p, "v", 16*mib)
		writeTree(t, dataPath(p, v.ID), map[string]string{"steady": strings.Repeat("s", mib)})
		ctx, stop := context.WithCancel(t.Context())
		var pod sync.WaitGroup
		pod.Go(func() { scribble(ctx, t, dataPath(p, v.ID)) })
		for i := range 5 {
			s := snapshot(t, p, fmt.Sprintf("s-%d", i), v.ID)
			c := restore(t, p, from(t, fmt.Sprintf("c-%d", i), volume.FromVolume(v.ID), 16*mib), only{p})
			for _, root := range []string{snapshotPath(p, s.ID), dataPath(p, c.ID)} {
				tree := listTree(t, root)
				if tree["steady"] != strings.Repeat("s", mib) {
					t.Errorf("%s lacks the file that nobody changes", root)
				}
				for name, content := range tree {
					if strings.HasPrefix(name, "scribbled-") && strings.Trim(content, "x") != "" {
						t.Errorf("%s/%s has something that nobody wrote", root, name)
					}
				}
			}
			removeSnapshot(t, p, s.ID)
			remove(t, p, c.ID)
		}
		stop()
		pod.Wait()
	})
}

// scribble changes a volume, as a pod does, until the context ends.
func scribble(ctx context.Context, t *testing.T, root string) {
	t.Helper()
	for i := 0; ctx.Err() == nil; i++ {
		name := filepath.Join(root, fmt.Sprintf("scribbled-%d", i%50))
		err := os.WriteFile(name, []byte(strings.Repeat("x", i%4096)), 0o600)
		if err == nil && i%3 == 0 {
			err = os.Rename(name, name+"-renamed")
		}
		if err == nil && i%7 == 0 {
			err = os.Remove(name)
			if errors.Is(err, os.ErrNotExist) {
				err = nil
			}
		}
		if err != nil && ctx.Err() == nil {
			t.Error(err)
			return
		}
	}
}

// Many callers create, restore and delete a few names at the same time. At the end each copy is
// whole, and the ledger counts no others.
func TestRacingCopiesLeaveOneState(t *testing.T) {
	onEach(t, func(t *testing.T, p *Pool) { //nolint:thelper // it is the test
		v := create(t, p, "v", 8*mib)
		writeTree(t, dataPath(p, v.ID), someTree)
		var clients sync.WaitGroup
		for client := range 8 {
			clients.Go(func() {
				for round := range 6 {
					raceOnce(t, p, v.ID, fmt.Sprintf("n-%d", (client+round)%3))
				}
			})
		}
		clients.Wait()
		for _, e := range p.ListSnapshots("", 100) {
			wantTree(t, snapshotPath(p, e.ID), someTree)
			removeSnapshot(t, p, e.ID)
		}
		for _, copied := range p.List("", 100) {
			wantTree(t, dataPath(p, copied.ID), someTree)
			remove(t, p, copied.ID)
		}
		waitPurged(t, p)
		wantLedger(t, p, 0, 0)
		wantEntries(t, p, layout.TmpDir)
	})
}

// raceOnce creates and deletes volumes and snapshots of one name. Calls may fail with ErrBusy or
// ErrNotFound because of other clients.
func raceOnce(t *testing.T, p *Pool, source volume.ID, name string) {
	t.Helper()
	s, err := p.CreateSnapshot(t.Context(), snapshotRequest(t, name, source))
	if err == nil {
		var c volume.Volume
		if c, err = p.CreateFrom(
			t.Context(),
			from(t, name, volume.FromSnapshot(s.ID), 8*mib),
			only{p},
		); err == nil {
			err = p.Delete(t.Context(), c.ID)
		}
		err = errors.Join(err, p.DeleteSnapshot(t.Context(), s.ID))
	}
	for _, expected := range []error{volume.ErrBusy, volume.ErrNotFound, volume.ErrNoSpace} {
		if errors.Is(err, expected) {
			return
		}
	}
	if err != nil {
		t.Error(err)
	}
}
