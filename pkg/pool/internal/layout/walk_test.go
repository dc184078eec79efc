package layout

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// newDir is an open directory with n files.
func newDir(t *testing.T, n int) openat.Dir {
	t.Helper()
	path := t.TempDir()
	for i := range n {
		if err := os.WriteFile(filepath.Join(path, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := openat.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestWalkVisitsEachEntryOnce(t *testing.T) {
	const n = 3*walkBatch + 1
	var mu sync.Mutex
	visits := make(map[string]int)
	err := Walk(t.Context(), newDir(t, n), func(_ context.Context, name string) {
		mu.Lock()
		defer mu.Unlock()
		visits[name]++
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, times := range visits {
		if times != 1 {
			t.Errorf("%s was visited %d times", name, times)
		}
	}
	if len(visits) != n {
		t.Errorf("%d entries were visited, want %d", len(visits), n)
	}
}

func TestWalkEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Walk(ctx, newDir(t, 10), func(context.Context, string) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that the context was canceled", err)
	}
}
