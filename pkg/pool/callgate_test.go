package pool

import (
	"context"
	"os"
	"sync/atomic"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/groupsync"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The gate holds background work while a call syncs: its files would be in the same journal.
func TestCallsThatSyncHoldTheBackground(t *testing.T) {
	p := newPool(t)
	id := create(t, p, "v", mib).ID
	var syncs, unheld atomic.Int64
	p.commits = groupsync.New(func(f *os.File) error {
		syncs.Add(1)
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := p.calls.Yield(ended); err == nil { // there was nothing to wait for
			unheld.Add(1)
		}
		return f.Sync()
	})
	for _, tc := range []struct {
		title string
		call  func() error
	}{
		{"create", func() error {
			_, err := p.Create(t.Context(), request(t, "other", mib))
			return err
		}},
		{"expand", func() error {
			_, err := p.Expand(t.Context(), id, volume.SizeRange{Required: 2 * mib})
			return err
		}},
		{"replace the record", func() error { return setFilesystemBytes(p, id, mib) }},
	} {
		syncs.Store(0)
		unheld.Store(0)
		if err := tc.call(); err != nil {
			t.Fatalf("%s: %v", tc.title, err)
		}
		if syncs.Load() == 0 || unheld.Load() > 0 {
			t.Errorf("%s: %d of %d syncs did not hold the background, want none of at least one",
				tc.title, unheld.Load(), syncs.Load())
		}
	}
}
