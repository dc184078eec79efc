package nodeserver

import (
	"context"
	"errors"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openBlock opens the node of a raw block volume's device, which it attaches if need be. Read-only
// is the device, not only its mount.
func (s *Server) openBlock(
	ctx context.Context, v staging.Volume, r publishRequest,
) (_ mountSource, err error) {
	access := loopdev.ReadWrite
	if r.access.Mount.ReadOnly() {
		access = loopdev.ReadOnly
	}
	r.access.Mount = r.access.Mount.WithDevices()
	src := mountSource{volume: v.ID.String(), access: r.access, block: &v}
	if err := s.Limiter.Check(v.Mutable.IO); err != nil {
		return mountSource{}, err
	}
	if err := v.Restore(ctx, s.Publications.Targets(v.ID.String())); err != nil {
		return mountSource{}, err
	}
	if src.file, err = v.Attach(ctx, access); err != nil {
		return mountSource{}, err
	}
	if src.nodes, err = v.Nodes(); err == nil {
		err = v.ReplacesOther(src.file, r.target)
	}
	if err == nil {
		err = v.LimitNew(s.Limiter)
	}
	if err != nil {
		src.close()
		return mountSource{}, errors.Join(err, s.releaseDevices(ctx, v))
	}
	return src, nil
}

// releaseDevices detaches the devices of a raw block volume that are published no more, also those
// which were until now, whatever file they have. The kernel writes what is left in the page cache
// before it detaches a device, and NodeUnpublishVolume would wait for the volume's limits, so they
// are lifted before.
func (s *Server) releaseDevices(ctx context.Context, v staging.Volume, were ...int) error {
	again := staging.Unlimit(ctx, s.Limiter, s.Pools, v.ID)
	defer again()
	return v.Release(s.Publications.Targets(v.ID.String()), were...)
}

// blockVolume finds a raw block volume whose pool is open. One that is gone, or damaged, has been
// seen by nobody, and the devices of one whose pool is not open wait for its start.
func (s *Server) blockVolume(id volume.ID) (staging.Volume, bool) {
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return staging.Volume{}, false
	}
	v, err := p.Get(id)
	return staging.Volume{Volume: v}, err == nil && v.Spec.IsBlock()
}
