package volume

import "testing"

func TestLongTextIsCutBetweenCharacters(t *testing.T) {
	for _, tc := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 0, ""}, {"abc", 3, "abc"}, {"abcd", 3, "abc…"}, {"aéb", 2, "a…"}, {"éé", 2, "é…"},
	} {
		if got := Clip(tc.text, tc.limit); got != tc.want {
			t.Errorf("%q with %d bytes is %q, want %q", tc.text, tc.limit, got, tc.want)
		}
	}
}
