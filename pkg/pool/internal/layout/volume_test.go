package layout

import "testing"

func TestOnlyThePathOfDataIsAVolumes(t *testing.T) {
	for path, want := range map[string]string{
		"volumes/v/data":            "v",
		"volumes/v/holder/data":     "v",
		"volumes/v/data/volumes":    "",
		"volumes/v/holder":          "",
		"volumes/v/volume.json":     "",
		"volumes/v":                 "",
		"volumes":                   "",
		"":                          "",
		"snapshots/v/data":          "",
		"trash/v.01234567/data":     "",
		"x/volumes/v/data":          "",
		"volumes/v/holder/data/sub": "",
	} {
		if got, ok := VolumeDirOf(path); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v, want %q", path, got, ok, want)
		}
	}
}
