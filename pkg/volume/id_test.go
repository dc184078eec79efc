package volume

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestIDIsReadBack(t *testing.T) {
	for _, s := range []string{
		"0123456789ab-pvc-1",
		"000000000000-a",
		"ffffffffffff-" + strings.Repeat("x", 64),
		"0123456789ab-h-" + strings.Repeat("0", 40),
	} {
		id, err := ParseID(s)
		if err != nil || id.String() != s {
			t.Errorf("ParseID(%q) = %q, %v", s, id, err)
		}
		if string(id.Pool())+"-"+id.Dir() != s || len(s) > 77 {
			t.Errorf("ID %q has pool %q and directory %q", s, id.Pool(), id.Dir())
		}
	}
}

func TestHostileIDIsRefused(t *testing.T) {
	for _, s := range []string{
		"",
		"-",
		"0123456789ab",
		"0123456789ab-",
		"0123456789ab-.",
		"0123456789ab-..",
		"0123456789ab-../../../etc",
		"0123456789ab-a/../b",
		"0123456789ab-/etc",
		"0123456789ab-a/",
		"0123456789ab-a\x00",
		"0123456789ab-a\n",
		"0123456789ab-größe",
		"0123456789ab-\xff",
		"0123456789ab-.hidden",
		"0123456789ab--a",
		"0123456789ab_a",
		"0123456789AB-a",
		"0123456789ag-a",
		"../456789abcd-a",
		"0123456789abc-a",
		"012345678-a",
		// No volume ID may be taken for a snapshot ID.
		"0123456789ab-s-snapshot",
		"0123456789ab-h-short",
		"0123456789ab-h-" + strings.Repeat("0", 39),
		"0123456789ab-h-" + strings.Repeat("0", 41),
		"0123456789ab-h-" + strings.Repeat("A", 40),
		"0123456789ab-" + strings.Repeat("x", 65),
		"0123456789ab-" + strings.Repeat("x", 1<<20),
	} {
		if id, err := ParseID(s); !errors.Is(err, wantIDError(s)) || id != (ID{}) {
			t.Errorf("ParseID(%.40q) = %v, %v, want %v", s, id, err, wantIDError(s))
		}
	}
}

// wantIDError returns the sentinel for a string that is no ID. A request with an empty or too long
// ID is invalid. A request with any other string is valid, and names a volume that cannot exist.
func wantIDError(s string) error {
	if s == "" || len(s) > MaxNameBytes {
		return ErrInvalid
	}
	return ErrNotFound
}

func TestDirectoryThatNoVolumeCanHaveIsCorrupt(t *testing.T) {
	for _, dir := range []string{"", ".", "..", "a/b", "lost+found", "s-a", "h-a", strings.Repeat("x", 65)} {
		if id, err := IDFromDir(examplePool, dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("IDFromDir(%q) = %v, %v, want ErrCorrupt", dir, id, err)
		}
	}
}

func TestPoolIDIsTwelveHexDigits(t *testing.T) {
	if id, err := ParsePoolID("0123456789ab"); id != examplePool || err != nil {
		t.Errorf("ParsePoolID = %q, %v", id, err)
	}
	for _, s := range []string{"", "0123456789a", "0123456789abc", "0123456789AB", "0123456789a/", "../../../../.", "é12345678901"} {
		if id, err := ParsePoolID(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParsePoolID(%q) = %q, %v, want ErrInvalid", s, id, err)
		}
	}
}

// Lists are in the byte order of the IDs, so that a client can sort a list and compare.
func TestIDsAreOrderedAsTheirStrings(t *testing.T) {
	sorted := []string{
		"000000000000-b",
		"000000000001-a",
		"000000000001-a-",
		"000000000001-aa",
		"000000000001-b",
		"00000000000a-A",
	}
	ids := make([]ID, 0, len(sorted))
	for _, s := range slices.Backward(sorted) {
		id, err := ParseID(s)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, ID.Compare)
	for i, id := range ids {
		if id.String() != sorted[i] {
			t.Errorf("at %d is %s, want %s", i, id, sorted[i])
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"", "0123456789ab-a", "0123456789ab-..", "0123456789ab-s-a", "0123456789ab-h-" + strings.Repeat("0", 40)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			if !errors.Is(err, wantIDError(s)) || id != (ID{}) {
				t.Errorf("ParseID(%q) = %v, %v: want no ID and %v", s, id, err, wantIDError(s))
			}
			return
		}
		if id.String() != s || !isSafeComponent(id.Dir()) || !isSafeComponent(string(id.Pool())) {
			t.Errorf("ParseID(%q) has pool %q and directory %q", s, id.Pool(), id.Dir())
		}
	})
}
