package nodeserver

import (
	"context"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// mountImage mounts the filesystem of an image. Its limits hold before anybody can use it. A volume
// whose limits cannot hold here is not mounted. Errors: those of Mount; ErrPrecondition.
func (s *Server) mountImage(ctx context.Context, v staging.Volume, at mount.Target) error {
	if err := s.Limiter.Check(v.Mutable.IO); err != nil {
		return err
	}
	if err := v.Mount(ctx, at); err != nil {
		return err
	}
	return v.LimitNew(s.Limiter)
}

// unmountImage unmounts the filesystem of an image. Unmounting writes what pods have left in the
// page cache, and everything that waits for it would wait for the volume's limits, so they are
// lifted before.
func (s *Server) unmountImage(ctx context.Context, id volume.ID, at mount.Target) error {
	again := staging.Unlimit(ctx, s.Limiter, s.Pools, id)
	defer again()
	return image.Unmount(id, at)
}

// RefreshLimits sets limits again that new control groups do not have. Only one call at a time.
func (s *Server) RefreshLimits(ctx context.Context) {
	text := ""
	if err := s.Limiter.Refresh(); err != nil {
		text = err.Error()
	}
	if text != s.limitFailure && text != "" {
		klog.FromContext(ctx).Error(nil, "The I/O of volumes is not limited in all groups of pods",
			"err", text)
	}
	s.limitFailure = text
}
