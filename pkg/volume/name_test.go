package volume

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const examplePool = PoolID("0123456789ab")

// The hashes were computed with sha256sum. A change of the scheme would orphan every volume, and
// fails this test.
func TestNameBecomesADirectory(t *testing.T) {
	for _, tc := range []struct{ name, dir string }{
		{"pvc-5d2f0a3c-9c38-4b1e-8f5e-2f8c6a5e9f10", "pvc-5d2f0a3c-9c38-4b1e-8f5e-2f8c6a5e9f10"},
		{"a", "a"},
		{"A_b.c-9", "A_b.c-9"},
		{strings.Repeat("x", 64), strings.Repeat("x", 64)},
		{strings.Repeat("x", 65), "h-9537c5fdf120482f7d58d25e9ed583f52c02b4e3"},
		{strings.Repeat("x", 128), "h-24da1b81d0b16df6428eee73c69fcb2a93c76bc6"},
		{"..", "h-5ec1f7e700f37c3d0b2981d04855fc34b94aaa15"},
		{".", "h-cdb4ee2aea69cc6a83331bbe96dc2caa9a299d21"},
		{"../../etc", "h-74ccf3c5b4c19a8167f9a3d1dd63e0e41fe451bc"},
		{"a/b", "h-"},
		{"/", "h-"},
		{"-a", "h-"},
		{".hidden", "h-"},
		{"a b", "h-"},
		{"a\x00b", "h-"},
		{"a\nb", "h-"},
		{"größe", "h-"},
		{"\u540d\u524d", "h-"},
		{"h-0123", "h-"},
		{"s-0123", "h-"},
	} {
		name, err := ParseName(tc.name)
		if err != nil {
			t.Errorf("ParseName(%q): %v", tc.name, err)
			continue
		}
		if name.String() != tc.name || !strings.HasPrefix(name.Dir(), tc.dir) {
			t.Errorf("ParseName(%q) is %q in directory %q, want directory %q", tc.name, name, name.Dir(),
				tc.dir)
		}
	}
}

func TestNameThatCannotBeKeptIsRefused(t *testing.T) {
	for _, name := range []string{"", strings.Repeat("x", 129), "\xff", "a\xc3"} {
		if n, err := ParseName(name); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseName(%q) = %q, %v, want ErrInvalid", name, n, err)
		}
	}
}

// A name that looks like the directory of another name must not share that directory.
func TestNamesNeverShareADirectory(t *testing.T) {
	seen := map[string]string{}
	names := []string{
		"a/b",
		"a",
		"A",
		"a.",
		"a_",
		"s-a",
		"h-a",
		"/a",
		"a/",
		" a",
		"a ",
		"á",
		"á",
		".",
		"..",
		strings.Repeat("x", 65),
	}
	for i := range names {
		n, err := ParseName(names[i])
		if err != nil {
			t.Fatal(err)
		}
		// An attacker would choose the directory of another volume as a name.
		names = append(names, n.Dir())
	}
	for _, s := range names {
		n, err := ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[n.Dir()]; taken && other != s {
			t.Errorf("names %q and %q share directory %q", other, s, n.Dir())
		}
		seen[n.Dir()] = s
	}
}

// isSafeComponent says, independently of the tested code, whether a string is one safe component of
// a path.
func isSafeComponent(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 255 && !strings.ContainsAny(s, "/\x00")
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"", "a", "..", "a/b", "a\x00", "h-0", "s-0", "\xff", strings.Repeat("x", 128)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := ParseName(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || name != (Name{}) {
				t.Errorf("ParseName(%q) = %v, %v: want no name and ErrInvalid", s, name, err)
			}
			return
		}
		if name.String() != s || !isSafeComponent(name.Dir()) ||
			strings.HasPrefix(name.Dir(), snapshotPrefix) {
			t.Errorf("ParseName(%q) is %q in directory %q", s, name, name.Dir())
		}
		id := NewID(examplePool, name)
		if back, err := ParseID(id.String()); back != id || err != nil {
			t.Errorf("name %q: ParseID(%q) = %v, %v", s, id, back, err)
		}
		if fromDir, err := IDFromDir(examplePool, name.Dir()); fromDir != id || err != nil {
			t.Errorf("name %q: IDFromDir(%q) = %v, %v", s, name.Dir(), fromDir, err)
		}
	})
}

// CSI spec, CreateVolumeRequest.name: "Any Unicode string … is allowed except those containing the
// following banned characters".
func TestNewNameHasNoControlCharacterButWhiteSpace(t *testing.T) {
	banned := func(r rune) bool {
		return r <= 0x08 || r == 0x0b || r == 0x0c || r >= 0x0e && r <= 0x1f || r >= 0x7f && r <= 0x9f
	}
	for r := range rune(0x180) {
		name, err := ParseNewName("a" + string(r) + "b")
		switch {
		case banned(r) && (!errors.Is(err, ErrInvalid) || name != (Name{}) ||
			!strings.Contains(err.Error(), fmt.Sprintf("%U", r))):
			t.Errorf("%U: %q, %v, want ErrInvalid naming it", r, name, err)
		case !banned(r) && err != nil:
			t.Errorf("%U: %v", r, err)
		}
	}
	if _, err := ParseNewName(""); !errors.Is(err, ErrInvalid) {
		t.Errorf("no name: %v, want ErrInvalid", err)
	}
}
