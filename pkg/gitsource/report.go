package gitsource

import (
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// shortCommit is how many digits of a commit people are told.
	shortCommit = 12
	// maxReport bounds the message of a report in bytes: the API server takes 1 KiB in an event, and
	// kubelet writes before it which volume it is of.
	maxReport = 768
)

// Report says that the content at a target cannot be refreshed any more: once, and again when the
// cause has changed or the content was fetched in between. Otherwise it returns nil. Errors:
// ErrStale.
func (s *Contents) Report(t mount.Target) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byTarget[t]
	if c == nil {
		return nil
	}
	u, cause := c.users[t], ""
	if c.isStale() {
		cause = resultOf(c, "", c.lastErr)
	}
	if u.reported == cause {
		return nil
	}
	u.reported = cause
	c.users[t] = u
	if cause == "" {
		return nil
	}
	why := describe(c.lastErr, c.source).Error() // its sentinel would be a code that is final
	return fmt.Errorf("%w: the pod keeps commit %.*s: %s", volume.ErrStale, shortCommit, c.commit,
		volume.Clip(why, maxReport))
}
