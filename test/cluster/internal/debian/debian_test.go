package debian

import (
	"slices"
	"testing"
)

func TestMissingNamesOnlyWhatIsNotThere(t *testing.T) {
	packages := []Package{
		{Name: "program", Programs: []string{"sh"}},
		{Name: "file", Files: []string{"/nowhere", "/etc/passwd"}},
		{Name: "absent", Programs: []string{"no-such-program"}, Files: []string{"/nowhere"}},
	}
	if got := Missing(packages); !slices.Equal(got, []string{"absent"}) {
		t.Fatalf("Missing = %v, want [absent]", got)
	}
}
