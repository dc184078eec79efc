package volume

import (
	"errors"
	"strings"
	"testing"
)

func TestGroupIsANumberOrNone(t *testing.T) {
	for text, want := range map[string]Group{
		"": {}, "0": {Given: true}, "2000": {ID: 2000, Given: true},
		"4294967294": {ID: 4294967294, Given: true},
	} {
		if got, err := ParseGroup(text); got != want || err != nil {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		" ", "-1", "+1", "4294967295", "4294967296", "99999999999999999999", "0x10", "1e3", "1_000", "staff", "2000\n", "2000\x00", "２０００",
		"2000,mode=4777", "../2000", strings.Repeat("1", 1<<16),
	} {
		if got, err := ParseGroup(text); !errors.Is(err, ErrInvalid) || got.Given {
			t.Errorf("%.40q: %+v, %v, want ErrInvalid", text, got, err)
		}
	}
}

func TestGroupMayWriteAndNobodyGetsMore(t *testing.T) {
	group := Group{ID: 2000, Given: true}
	for _, tc := range []struct {
		kind      Type
		mode, got uint32
	}{
		{DirectoryOrCreate, 0o755, 0o2775},
		{DirectoryOrCreate, 0o700, 0o2770},
		{DirectoryOrCreate, 0o3777, 0o3777},
		{FileOrCreate, 0o644, 0o664},
		{FileOrCreate, 0o755, 0o775},
		{FileOrCreate, 0o6755, 0o775},
	} {
		spec := Spec{Type: tc.kind, Mode: tc.mode, UID: 7, GID: 8}
		if got, want := group.Of(
			spec,
		), (Spec{Type: tc.kind, Mode: tc.got, UID: 7, GID: 2000}); got != want {
			t.Errorf("%+v becomes %+v, want %+v", spec, got, want)
		}
		if got := (Group{}).Of(spec); got != spec {
			t.Errorf("without a group %+v becomes %+v", spec, got)
		}
	}
}
