package staging

import (
	"context"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// RetryGrowth tries again to grow the mounted filesystems of a pool's volumes for which that has
// failed. parse makes a target of a mount point; it is false for what is none of kubelet's.
func RetryGrowth(ctx context.Context, p *pool.Pool, parse func(path string) (mount.Target, bool)) {
	failed := p.GrowthFailures()
	if len(failed) == 0 {
		return
	}
	mounts, err := mount.Table()
	if err != nil {
		klog.FromContext(ctx).Error(err, "No filesystem can be grown")
		return
	}
	for _, id := range failed {
		retryGrowth(ctx, p, id, mounts, parse)
	}
}

func retryGrowth(
	ctx context.Context,
	p *pool.Pool,
	id volume.ID,
	mounts []mount.Mount,
	parse func(path string) (mount.Target, bool),
) {
	found, err := p.Get(id)
	if err != nil {
		return // it is gone
	}
	v := Volume{found}
	f, err := v.Data()
	if err != nil {
		return
	}
	defer f.Close()
	device, err := loopdev.Find(f, loopdev.ReadWrite)
	if err != nil { // it is staged nowhere
		return
	}
	number := device.Number()
	device.Close() // so that it goes with its last mount
	for _, m := range mountsOf(mounts, number) {
		if at, ok := parse(m.Point); ok && v.isDirectoryAt(at) {
			v.TryGrow(ctx, at)
			return
		}
	}
}
