package openat

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// A pod can have any number of directories side by side below removeDepth. To remember them all
// would take more memory than the driver may have.
func TestRemovalOfADeepAndWideTreeRemembersNothing(t *testing.T) {
	const wide = 20_000
	top, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	at := filepath.Join(top.Name(), strings.Repeat("d/", removeDepth))
	for i := range wide {
		if err := os.MkdirAll(filepath.Join(at, strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r, before := NewRemover(nil), bytesInUse()
	if err := r.Empty(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	more := bytesInUse() - before
	runtime.KeepAlive(r)
	if left, err := os.ReadDir(top.Name()); len(left) > 0 || err != nil {
		t.Errorf("%d entries are left, %v", len(left), err)
	}
	if more > 512<<10 {
		t.Errorf("the remover has %d bytes for %d directories", more, wide)
	}
}

func bytesInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // less than the machine has
}
