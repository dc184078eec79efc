package layout

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// Another process may have made a pool of the directory meanwhile. The volumes of that pool have
// its UUID in their IDs.
func TestRecordOfAPoolIsNotReplaced(t *testing.T) {
	const content = "another's"
	dir := t.TempDir()
	path := filepath.Join(dir, RecordFile)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := openat.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := initialize(root); !errors.Is(err, os.ErrExist) {
		t.Errorf("%v, want EEXIST", err)
	}
	if got, err := os.ReadFile(path); string(got) != content || err != nil {
		t.Errorf("%s has %q, %v, want %q", RecordFile, got, err, content)
	}
}
