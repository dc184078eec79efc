package vm

import (
	"strings"
	"testing"
)

func TestFaultyConfigIsRefused(t *testing.T) {
	tests := []struct {
		name    string
		disks   []Disk
		wantErr string
	}{
		{name: "no name", disks: []Disk{{Size: 1 << 20}}, wantErr: "want a name"},
		{
			name:    "twice",
			disks:   []Disk{{Name: "a", Size: 1}, {Name: "a", Size: 1}},
			wantErr: "want a name of its own",
		},
		{name: "our own name", disks: []Disk{{Name: "work"}}, wantErr: "want a name of its own"},
		{name: "long name", disks: []Disk{{Name: "a-name-of-twenty-one-x"}}, wantErr: "want a name"},
		{name: "filesystem", disks: []Disk{{FS: "ntfs"}}, wantErr: `"ntfs" is none of`},
		{
			name:    "quota",
			disks:   []Disk{{FS: "btrfs", ProjectQuota: true}},
			wantErr: "btrfs has no project quotas",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := makeDisks(t.Context(), tt.disks, t.TempDir())
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("%v, want %q", err, tt.wantErr)
			}
		})
	}
}
