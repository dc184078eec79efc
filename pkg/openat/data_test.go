package openat

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestNextDataFindsWhatIsNoHole(t *testing.T) {
	const mib = 1 << 20
	f, err := os.Create(filepath.Join(disks.New(t, disks.Ext4, 0).Dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{mib, 3 * mib} {
		if _, err := f.WriteAt(make([]byte, mib), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(8 * mib); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		size int64
		want []int64
	}{
		{8 * mib, []int64{mib, 2 * mib, 3 * mib, 4 * mib, 8 * mib, 8 * mib}},
		{3*mib + 1, []int64{mib, 2 * mib, 3 * mib, 3*mib + 1, 3*mib + 1, 3*mib + 1}},
		{mib, []int64{mib, mib}},
		{9 * mib, []int64{mib, 2 * mib, 3 * mib, 4 * mib, 9 * mib, 9 * mib}}, // it was longer once
	} {
		var got []int64
		for from := int64(0); ; {
			start, end, err := NextData(int(f.Fd()), from, tt.size)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, start, end)
			if start == end {
				break
			}
			from = end
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("below %d the data is at %d, want %d", tt.size, got, tt.want)
		}
	}
}
