package openat

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// An ext4 without the feature filetype does not say what an entry is (getdents64(2), DT_UNKNOWN).
func TestEntryIsADirectoryOnlyWhereTheFilesystemSaysSo(t *testing.T) {
	for _, tt := range []struct {
		feature string
		known   bool
	}{{"filetype", true}, {"^filetype", false}} {
		t.Run(tt.feature, func(t *testing.T) {
			disk := disks.New(t, disks.Ext4, 16<<20, disks.MkfsArgs("-O", tt.feature))
			at := filepath.Join(disk.Dir, "at")
			if err := os.MkdirAll(filepath.Join(at, "a"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(at, "f"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			d, err := OpenDir(at)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			got, err := d.ReadEntries(make([]byte, EntriesBuffer))
			slices.SortFunc(got, func(x, y Entry) int { return strings.Compare(x.Name, y.Name) })
			if want := []Entry{{Name: "a", IsDir: tt.known}, {Name: "f"}}; err != nil ||
				!slices.Equal(got, want) {
				t.Errorf("entries are %+v, %v, want %+v", got, err, want)
			}
			if end, err := d.ReadEntries(make([]byte, EntriesBuffer)); len(end) > 0 || err != nil {
				t.Errorf("after the end: %+v, %v", end, err)
			}
		})
	}
}
