package gitsource

import (
	"maps"
	"slices"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Shown is what people are told of a content. After a start it is zero, until kubelet publishes the
// volumes again.
type Shown struct {
	Ref    string
	Commit string
	// Fetched is when the last fetch has succeeded.
	Fetched time.Time
	// IsStale: it cannot be refreshed.
	IsStale bool
	// Targets show it.
	Targets []mount.Target
}

// Shown describes a content.
func (s *Contents) Shown(id volume.ID) (shown Shown) {
	if s == nil {
		return shown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.contents[id]
	if c == nil {
		return shown
	}
	return Shown{
		Ref: c.source.Ref, Commit: c.commit, Fetched: c.lastFetched, IsStale: c.isStale(),
		Targets: slices.Collect(maps.Keys(c.users)),
	}
}
