package nodeserver

import (
	"context"
	"errors"

	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openBlock opens the node of a raw block volume's device, which it attaches if need be. Read-only
// is the device, not only its mount.
func (s *Server) openBlock(ctx context.Context, v staging.Volume, w wish) (_ source, err error) {
	access := loopdev.ReadWrite
	if w.access.Mount.ReadOnly() {
		access = loopdev.ReadOnly
	}
	w.access.Mount = w.access.Mount.WithDevices()
	src := source{volume: v.ID.String(), access: w.access}
	if err := v.Restore(ctx, s.Publications.Targets(v.ID.String())); err != nil {
		return source{}, err
	}
	if src.file, err = v.Attach(ctx, access); err != nil {
		return source{}, err
	}
	if src.nodes, err = v.Nodes(); err == nil {
		err = v.ReplacesOther(src.file, w.target)
	}
	if err != nil {
		src.close()
		return source{}, errors.Join(err, s.releaseDevices(v.ID))
	}
	return src, nil
}

// releaseDevices detaches the devices of a raw block volume that are published no more, also those
// which were until now, whatever file they have. Those of a volume whose pool is not open wait for
// its start.
func (s *Server) releaseDevices(id volume.ID, were ...int) error {
	v, ok := s.blockVolume(id)
	if !ok {
		return nil
	}
	return v.Release(s.Publications.Targets(id.String()), were...)
}

// devicesAt are the devices that a target of a raw block volume shows; the target of any other is
// not looked at.
func (s *Server) devicesAt(handle string, target mount.Target) []int {
	id, err := volume.ParseID(handle)
	if err != nil {
		return nil
	}
	if _, ok := s.blockVolume(id); !ok {
		return nil
	}
	return image.NodesAt(target)
}

// blockVolume finds a raw block volume whose pool is open. One that is gone, or damaged, has been
// seen by nobody.
func (s *Server) blockVolume(id volume.ID) (staging.Volume, bool) {
	p, err := s.Pools.ByID(id.Pool())
	if err != nil {
		return staging.Volume{}, false
	}
	v, err := p.Get(id)
	return staging.Volume{Volume: v, Pool: p}, err == nil && v.Spec.IsBlock()
}
