package gitsource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Sweep deletes the content that no pod has shown for a while, and removes trees that were
// replaced.
// It costs nothing where there is no content. Only one call at a time.
func (s *Contents) Sweep(ctx context.Context) {
	if s == nil {
		return
	}
	for _, p := range s.opts.Pools.Open() {
		for _, v := range p.GitContents() {
			if err := s.sweep(ctx, p, v.ID); err != nil {
				klog.FromContext(ctx).Error(err, "Content of git is looked at again later", "volumeID", v.ID)
			}
		}
	}
	s.forgetUnused()
}

// forgetUnused forgets contents that no pod uses and that no open pool has: there was no room to
// make them, or their disk has gone. If it comes back, a sweep finds them as after a start.
func (s *Contents) forgetUnused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.contents {
		if len(c.users) == 0 && c.running == nil && time.Since(c.unusedSince) >= s.unused {
			delete(s.contents, id)
		}
	}
}

func (s *Contents) sweep(ctx context.Context, p *pool.Pool, id volume.ID) error {
	c, isUnused, isToClean := s.look(id)
	switch {
	case isUnused:
		return s.deleteUnused(ctx, p, c)
	case isToClean:
		return s.clean(ctx, p, c)
	default:
		return nil
	}
}

// look says what is to be done about a content. If it is unused, nobody can join it until
// deleteUnused has ended. Content of an earlier process is known from then on.
func (s *Contents) look(id volume.ID) (c *content, isUnused, isToClean bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c = s.contents[id]
	if c == nil {
		c = newContent(id)
		s.contents[id] = c
	}
	now := time.Now()
	if c.running != nil || s.closed {
		return c, false, false
	}
	c.isDeleting = len(c.users) == 0 && now.Sub(c.unusedSince) >= s.unused
	return c, c.isDeleting, c.isToClean(now)
}

// deleteUnused deletes a content, unless a mount of it is left: after a restart the pods that show
// it may not have been published again.
func (s *Contents) deleteUnused(ctx context.Context, p *pool.Pool, c *content) error {
	c.disk.Lock()
	defer c.disk.Unlock()
	err := checkUnmounted(p, c.id)
	if err == nil {
		klog.FromContext(ctx).Info("Deleting content of git that no pod shows any more", "volumeID", c.id)
		err = p.Delete(ctx, c.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.isDeleting, c.unusedSince = false, time.Now()
	if err == nil {
		delete(s.contents, c.id)
	}
	if errors.Is(err, volume.ErrInUse) {
		return nil
	}
	return err
}

// checkUnmounted refuses to delete what pods may see. Errors: ErrInUse.
func checkUnmounted(p *pool.Pool, id volume.ID) error {
	data, err := p.AnyData(id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer data.Close()
	points, err := mount.PointsOf(data)
	if err == nil && len(points) > 0 {
		err = fmt.Errorf("%w: content %s is mounted at %s", volume.ErrInUse, id, points[0])
	}
	return err
}

// clean removes the trees that were replaced. It does not wait for an exchange.
func (s *Contents) clean(ctx context.Context, p *pool.Pool, c *content) error {
	if !c.disk.TryLock() {
		return nil
	}
	defer c.disk.Unlock()
	v, err := p.Get(c.id)
	if err != nil {
		return err
	}
	if !s.isToClean(c) { // an exchange since then
		return nil
	}
	err = s.removeOld(ctx, c, v)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.cleanAt = time.Time{}
	if err != nil {
		c.cleanAt = time.Now().Add(s.grace)
	}
	return err
}

func (s *Contents) removeOld(ctx context.Context, c *content, v pool.Volume) error {
	tree, err := s.openTree(v, c.source)
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	return tree.RemoveOld(ctx, time.Now())
}

// isToClean says whether replaced trees are to be removed now.
func (s *Contents) isToClean(c *content) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.isToClean(time.Now())
}
