package nodeserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/staging"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// growStaged makes the filesystem of an image that is in use as large as the image. kubelet names
// both paths; the volume may be mounted at neither, and grows when it is staged.
func (s *Server) growStaged(
	ctx context.Context, v staging.Volume, stagingPath string, at mount.Target,
) error {
	switch {
	case !v.Spec.IsImage():
		return nil
	case v.Spec.IsBlock():
		return v.GrowDevices(ctx)
	}
	candidates := []mount.Target{at}
	if staged, err := s.parseTarget("staging_target_path", stagingPath); err == nil {
		candidates = []mount.Target{staged, at}
	}
	return v.Grow(candidates...)
}

// imageUsage is what df says in the pod, and of a raw block volume only the size. Errors:
// ErrNotFound when the volume is not at the target.
func imageUsage(v staging.Volume, target mount.Target) (volume.Usage, error) {
	if v.Spec.IsBlock() {
		bytes, err := v.DeviceBytes(target)
		return volume.Usage{TotalBytes: bytes}, err
	}
	f, mounted, err := mount.Open(target)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return volume.Usage{}, err
	}
	if err != nil || !mounted {
		return volume.Usage{}, fmt.Errorf("%w: volume %s is no longer mounted at %s", volume.ErrNotFound,
			v.ID, target)
	}
	defer f.Close()
	if !v.IsOn(f) {
		return volume.Usage{}, fmt.Errorf("%w: volume %s is no longer mounted at %s", volume.ErrNotFound,
			v.ID, target)
	}
	return mount.UsageOf(f)
}

// RetryGrowth tries again to grow the filesystems of volumes for which that has failed.
func (s *Server) RetryGrowth(ctx context.Context) {
	resolved, err := filepath.EvalSymlinks(s.KubeletDir) // as the mount table has it
	if err != nil {
		return // there is nothing of kubelet's
	}
	for _, p := range s.Pools.Open() {
		staging.RetryGrowth(ctx, p, func(point string) (mount.Target, bool) {
			return mount.TargetAt(s.KubeletDir, resolved, point)
		})
	}
}
