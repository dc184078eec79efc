package volume

import (
	"errors"
	"strings"
	"testing"
)

func TestSnapshotIDIsReadBack(t *testing.T) {
	for _, s := range []string{
		"0123456789ab-s-snapshot-1",
		"000000000000-s-a",
		"ffffffffffff-s-" + strings.Repeat("x", 64),
		"0123456789ab-s-h-" + strings.Repeat("0", 40),
	} {
		id, err := ParseSnapshotID(s)
		if err != nil || id.String() != s {
			t.Errorf("ParseSnapshotID(%q) = %q, %v", s, id, err)
		}
		if string(id.Pool())+"-s-"+id.Dir() != s || len(s) > 79 {
			t.Errorf("ID %q has pool %q and directory %q", s, id.Pool(), id.Dir())
		}
	}
}

func TestHostileSnapshotIDIsRefused(t *testing.T) {
	for _, s := range []string{
		"",
		"-",
		"s-a",
		"0123456789ab-s",
		"0123456789ab-s-",
		"0123456789ab-s-.",
		"0123456789ab-s-..",
		"0123456789ab-s-../../../etc",
		"0123456789ab-s-a/../b",
		"0123456789ab-s-a\x00",
		"0123456789ab-s-\xff",
		"0123456789ab-s-s-a", // no name becomes such a directory
		"0123456789ab-s-h-short",
		"0123456789AB-s-a",
		"../456789abcd-s-a",
		"0123456789ab-a", // a volume's ID
		"0123456789ab-S-a",
		"0123456789ab-s-" + strings.Repeat("x", 65),
		"0123456789ab-s-" + strings.Repeat("x", 1<<20),
	} {
		if id, err := ParseSnapshotID(s); !errors.Is(err, wantIDError(s)) || id != (SnapshotID{}) {
			t.Errorf("ParseSnapshotID(%.40q) = %v, %v, want %v", s, id, err, wantIDError(s))
		}
	}
}

func TestNoStringIsBothAVolumeAndASnapshot(t *testing.T) {
	for _, s := range []string{"a", "s-a", "s-s-a", "h-a", "s", "h-" + strings.Repeat("0", 40), "s-h-" + strings.Repeat("0", 40)} {
		name, err := ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		if v := NewID(examplePool, name).String(); !IsID(v) {
			t.Errorf("volume %q has ID %q, which is none", s, v)
		} else if id, err := ParseSnapshotID(v); err == nil {
			t.Errorf("volume %q has ID %q, which is the snapshot %v too", s, v, id)
		}
		if id := NewSnapshotID(examplePool, name); IsID(id.String()) {
			t.Errorf("snapshot %q has ID %q, which is a volume's too", s, id)
		}
	}
}

func TestDirectoryThatNoSnapshotCanHaveIsCorrupt(t *testing.T) {
	for _, dir := range []string{"", ".", "..", "a/b", "lost+found", "s-a", "h-a", strings.Repeat("x", 65)} {
		if id, err := SnapshotIDFromDir(examplePool, dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("SnapshotIDFromDir(%q) = %v, %v, want ErrCorrupt", dir, id, err)
		}
	}
}

func TestSnapshotParameterThatNobodyKnowsIsNamed(t *testing.T) {
	owner, err := ParseSnapshotParameters(map[string]string{
		ParamSnapshotName: "daily", ParamSnapshotNamespace: "shop", ParamSnapshotContent: "snapcontent-1",
	})
	want := SnapshotOwner{Namespace: "shop", Snapshot: "daily", Content: "snapcontent-1"}
	if owner != want || err != nil {
		t.Errorf("ParseSnapshotParameters = %+v, %v, want %+v", owner, err, want)
	}
	owner, err = ParseSnapshotParameters(map[string]string{ParamSnapshotName: "daily", "pool": "fast"})
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `"pool"`) ||
		owner != (SnapshotOwner{}) {
		t.Errorf("ParseSnapshotParameters = %+v, %v, want ErrInvalid naming the key", owner, err)
	}
}

func FuzzParseSnapshotID(f *testing.F) {
	for _, s := range []string{"", "0123456789ab-s-a", "0123456789ab-s-..", "0123456789ab-a", "0123456789ab-s-h-" + strings.Repeat("0", 40)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseSnapshotID(s)
		if err != nil {
			if !errors.Is(err, wantIDError(s)) || id != (SnapshotID{}) {
				t.Errorf("ParseSnapshotID(%q) = %v, %v: want no ID and %v", s, id, err, wantIDError(s))
			}
			return
		}
		if id.String() != s || IsID(s) || !isSafeComponent(id.Dir()) ||
			!isSafeComponent(string(id.Pool())) {
			t.Errorf("ParseSnapshotID(%q) has pool %q and directory %q; a volume's: %t", s, id.Pool(),
				id.Dir(), IsID(s))
		}
	})
}
