package gitsource

import (
	"context"
	"errors"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// faultText says what a fault of the fetcher means for a publish.
type faultText struct {
	as     error
	remedy string
}

var faultTable = map[gitwire.Fault]faultText{
	gitwire.Unreachable:  {volume.ErrNode, "can the node's pods reach the server?"},
	gitwire.Unauthorized: {volume.ErrForbidden, "look at the volume's Secret, and what it may read"},
	gitwire.NotFound: {
		volume.ErrPrecondition, "look at url, ref and subPath; a private repository needs a Secret",
	},
	gitwire.Refused:  {volume.ErrForbidden, "the operator's gitSources rule says what is allowed"},
	gitwire.TooLarge: {volume.ErrNoSpace, "give the volume a larger size, or a smaller part (subPath)"},
	gitwire.Malformed: {
		volume.ErrPrecondition, "the repository has what this driver does not write, or is damaged",
	},
	gitwire.Internal: {volume.ErrNode, "the log of the container with the fetcher says more"},
}

func isKnown(f gitwire.Fault) bool { _, ok := faultTable[f]; return ok }

// isDenied says that the server does not show the content with a secret. Many servers say of a
// private repository that it does not exist.
func isDenied(err error) bool {
	var wire *gitwire.Error
	return errors.As(err, &wire) &&
		(wire.Fault == gitwire.Unauthorized || wire.Fault == gitwire.NotFound)
}

// describe is why a first fetch has failed, as its publish answers. Errors: those of faultTable;
// ErrNode when the fetcher was not reached; those of the pool.
func describe(err error, source volume.GitSource) error {
	if wire, ok := errors.AsType[*gitwire.Error](err); ok {
		text, ok := faultTable[wire.Fault]
		if !ok {
			text = faultTable[gitwire.Internal]
		}
		return fmt.Errorf("%w: ref %s of %s: %w: %s", text.as, source.Ref, source.URL, wire, text.remedy)
	}
	if isSentinel(err) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("ref %s of %s: %w", source.Ref, source.URL, err)
	}
	return fmt.Errorf("%w: ref %s of %s: %w: does the container with the fetcher run?",
		volume.ErrNode, source.Ref, source.URL, err)
}

// isSentinel says whether the driver's own part has failed, not the fetcher.
func isSentinel(err error) bool {
	for _, sentinel := range []error{
		volume.ErrNoSpace, volume.ErrPrecondition, volume.ErrTooMany, volume.ErrUnavailable,
		volume.ErrBusy, volume.ErrCorrupt, volume.ErrNotFound,
	} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}
