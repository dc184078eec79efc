package pool

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// TestVolumeHasNoMoreSnapshotsThanItsPoolAllows lets callers race for the last snapshots. Repeated
// requests and deleted snapshots do not count.
func TestVolumeHasNoMoreSnapshotsThanItsPoolAllows(t *testing.T) {
	const most, racers = 3, 8
	p := newPool(t)
	closePool(t, p)
	opts := p.opts
	opts.MaxSnapshotsPerVolume = most
	p = openPool(t, opts)
	v, other := create(t, p, "v", mib), create(t, p, "other", mib)
	var wg sync.WaitGroup
	errs := make([]error, racers)
	for i := range racers {
		wg.Go(func() {
			req := snapshotRequest(t, fmt.Sprintf("s%d", i), v.ID)
			_, errs[i] = p.CreateSnapshot(t.Context(), req)
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil && !errors.Is(err, volume.ErrTooMany) {
			t.Errorf("s%d: %v, want none or ErrTooMany", i, err)
		}
	}
	all := p.ListSnapshotsOf(v.ID, "", racers)
	if len(all) > most {
		t.Fatalf("the volume has %d snapshots, want at most %d", len(all), most)
	}
	// A caller may have been refused because of another one that failed later.
	for i := len(all); i < most; i++ {
		snapshot(t, p, fmt.Sprintf("late%d", i), v.ID)
	}
	all = p.ListSnapshotsOf(v.ID, "", racers)
	again := volume.SnapshotRequest{Name: all[0].Name, Source: v.ID}
	if s, err := p.CreateSnapshot(t.Context(), again); s.ID != all[0].ID || err != nil {
		t.Errorf("the same again: %v, %v", s.ID, err)
	}
	snapshot(t, p, "of-another-volume", other.ID)
	one := snapshotRequest(t, "one-more", v.ID)
	if _, err := p.CreateSnapshot(t.Context(), one); !errors.Is(err, volume.ErrTooMany) {
		t.Errorf("one more: %v, want ErrTooMany", err)
	}
	removeSnapshot(t, p, all[0].ID)
	snapshot(t, p, "one-more", v.ID)
}

// Thousands of snapshots of empty volumes or empty files take inodes. So the ledger counts bytes
// for them.
func TestSnapshotCountsItsInodes(t *testing.T) {
	const files = 100
	p := newPool(t)
	v := create(t, p, "v", mib)
	if s := snapshot(t, p, "empty", v.ID); s.HeldBytes < ledger.OfSnapshot(0, 0) {
		t.Errorf("the snapshot of an empty volume counts %d bytes, want at least %d", s.HeldBytes,
			ledger.OfSnapshot(0, 0))
	}
	tree := map[string]string{}
	for i := range files {
		tree[fmt.Sprintf("f%d", i)] = ""
	}
	writeTree(t, dataPath(p, v.ID), tree)
	s := snapshot(t, p, "of-files", v.ID)
	if want := ledger.OfSnapshot(0, files); s.HeldBytes < want {
		t.Errorf(
			"the snapshot of %d empty files counts %d bytes, want at least %d",
			files,
			s.HeldBytes,
			want,
		)
	}
	committed, _ := p.ledger.Counts()
	p = restart(t, p)
	if again, _ := p.ledger.Counts(); again != committed {
		t.Errorf("the ledger has %d bytes after a restart, and had %d", again, committed)
	}
}
