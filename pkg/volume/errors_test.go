package volume

import (
	"errors"
	"fmt"
	"testing"
)

func TestRestatedFailureSaysOneThing(t *testing.T) {
	for text, err := range map[string]error{
		"no space: no pool x":                  fmt.Errorf("%w: no pool x", ErrNotFound),
		"no space: copy s: not found: nothing": fmt.Errorf("copy s: %w: nothing", ErrNotFound),
		"no space: its disk is gone":           fmt.Errorf("%w: its disk is gone", ErrUnavailable),
		"no space: x is not a snapshot's ID":   fmt.Errorf("%w: x is not a snapshot's ID", ErrInvalid),
	} {
		got := Restate(ErrNoSpace, err)
		if got.Error() != text || !errors.Is(got, ErrNoSpace) || errors.Is(got, ErrNotFound) ||
			errors.Is(got, ErrUnavailable) {
			t.Errorf("%v becomes %v, want %s", err, got, text)
		}
	}
}

func TestDifferencesAreThoseFieldsAlone(t *testing.T) {
	is := Spec{Type: DirectoryOrCreate, Mode: 0o755, UID: 7}
	asked := is
	if got := is.Differences(asked); got != "" {
		t.Errorf("of the same: %q", got)
	}
	asked.Mode, asked.FSType = 0o700, "xfs"
	if got, want := is.Differences(
		asked,
	), "; mode is 0755, requested: 0700; fsType is none, requested: xfs"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// If a field were missing in Differences, the error for an existing volume would not name the
// difference.
func TestEveryFieldOfASpecificationCanDiffer(t *testing.T) {
	for i, asked := range []Spec{
		{Type: FileOrCreate}, {Mode: 1}, {UID: 1}, {GID: 1}, {Backing: ImageBacking}, {FSType: "xfs"}, {Allocation: Sparse}, {Inodes: 1},
	} {
		if (Spec{}).Differences(asked) == "" {
			t.Errorf("field %d is not told", i)
		}
	}
}
