package openat

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// An ext4 without the feature filetype does not say what an entry is (getdents64(2), DT_UNKNOWN).
func TestEntryHasATypeOnlyWhereTheFilesystemSaysSo(t *testing.T) {
	for _, tt := range []struct {
		feature   string
		dir, file uint8
	}{{"filetype", unix.DT_DIR, unix.DT_REG}, {"^filetype", unix.DT_UNKNOWN, unix.DT_UNKNOWN}} {
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
			types := map[string]uint8{}
			for _, e := range got {
				types[e.Name] = e.Type
			}
			want := map[string]uint8{"a": tt.dir, "f": tt.file}
			if err != nil || !maps.Equal(types, want) {
				t.Errorf("types are %v, %v, want %v", types, err, want)
			}
			if end, err := d.ReadEntries(make([]byte, EntriesBuffer)); len(end) > 0 || err != nil {
				t.Errorf("after the end: %+v, %v", end, err)
			}
		})
	}
}
