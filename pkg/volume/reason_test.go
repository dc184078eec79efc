package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

func TestReasonIsTheGivenOneOrTheCause(t *testing.T) {
	failed := fmt.Errorf("%w: its disk has failed: %w", ErrUnavailable, syscall.EIO)
	for _, c := range []struct {
		err  error
		want Reason
	}{
		{fmt.Errorf("pool p: %w", Because(ReasonForeign, fmt.Errorf("%w: x", ErrUnavailable))), ReasonForeign},
		{Because(ReasonInUse, syscall.EIO), ReasonInUse},
		{failed, ReasonDiskFailed},
		{fmt.Errorf("%w: %w", ErrUnavailable, fs.ErrNotExist), ReasonAbsent},
		{ErrCorrupt, ReasonDamaged},
		{syscall.EROFS, ReasonReadOnly},
		{ErrUnavailable, ReasonOther},
	} {
		if got := ReasonOf(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
	if given := Because(ReasonOther, failed); given.Error() != failed.Error() ||
		!errors.Is(given, ErrUnavailable) {
		t.Errorf("a reason changes the error: %v", given)
	}
}
