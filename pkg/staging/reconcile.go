package staging

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Reconcile repairs what a crash has left of a pool's images, before anybody can find the pool. A
// device that no target shows is detached, and a filesystem that was frozen for a snapshot is
// thawed. The devices that stay get the limits of their volumes. Its cost grows with the number of
// devices and mounts: it is called once a start.
func Reconcile(
	ctx context.Context,
	p *pool.Pool,
	limiter *iolimit.Limiter,
	targetsOf func(id string) []mount.Target,
) error {
	numbers, err := loopdev.Attached()
	if err != nil || len(numbers) == 0 {
		return err
	}
	mounts, err := mount.Table()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if _, mayBeOurs := p.VolumeNamedBy(n); !mayBeOurs {
			continue
		}
		device, err := loopdev.Open(n)
		if err != nil { // detached meanwhile, or a partition of somebody's
			continue
		}
		id, ours := p.VolumeOn(device)
		device.Close()
		if !ours {
			continue
		}
		targets := targetsOf(id.String())
		if err := reconcile(ctx, p, limiter, id, mountsOf(mounts, n), targets); err != nil {
			klog.FromContext(ctx).Error(err, "What a crash left of an image stays",
				"volumeID", id, "device", n)
		}
	}
	return nil
}

func reconcile(
	ctx context.Context, p *pool.Pool, limiter *iolimit.Limiter,
	id volume.ID, mounts []mount.Mount, targets []mount.Target,
) error {
	found, err := p.Get(id)
	if err != nil {
		return err
	}
	v := Volume{found}
	if v.Spec.IsBlock() {
		err = v.resumeDevices(ctx, limiter, targets)
	} else {
		err = v.resumeFilesystem(ctx, mounts)
	}
	if err := v.Limit(limiter); err != nil {
		klog.FromContext(ctx).Error(err, "The I/O of a volume is not limited", "volumeID", v.ID)
	}
	return err
}

// resumeFilesystem thaws the filesystem at the first of its mounts where it is frozen.
func (v Volume) resumeFilesystem(ctx context.Context, mounts []mount.Mount) error {
	for _, m := range mounts {
		thawed, err := v.thaw(mounts, m)
		if thawed {
			klog.FromContext(ctx).Info(
				"A crash had left the filesystem of a volume frozen; its writers go on", "volumeID", v.ID)
		}
		if thawed || err != nil {
			return err
		}
	}
	return nil
}

// resumeDevices detaches the devices that no target shows, and secures the others. It lifts their
// limits, which are to be set again: the start would wait for them while the kernel writes what is
// left in the page cache of a device.
func (v Volume) resumeDevices(
	ctx context.Context, limiter *iolimit.Limiter, targets []mount.Target,
) error {
	if err := v.setLimits(limiter, volume.IOLimits{}); err != nil {
		klog.FromContext(ctx).Error(err, "The I/O limits of a volume could not be lifted",
			"volumeID", v.ID)
	}
	if err := v.Release(targets); err != nil {
		return err
	}
	return v.eachDevice(func(d *loopdev.Device) error { return v.secure(ctx, d) })
}

// mountsOf are those of the filesystem on a device.
func mountsOf(mounts []mount.Mount, device int) []mount.Mount {
	var found []mount.Mount
	for _, m := range mounts {
		if n, ok := loopdev.NumberAt(m.Source); ok && n == device {
			found = append(found, m)
		}
	}
	return found
}

// thaw thaws the filesystem of a volume's image at a mount of it. It is false if something else is
// mounted above it, which is not asked: it may not answer.
func (v Volume) thaw(mounts []mount.Mount, m mount.Mount) (bool, error) {
	there, err := os.OpenFile(m.Point, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer there.Close()
	// The mounts are those of the device alone, so another one is not among them.
	if top, err := mount.Of(mounts, there); err != nil || top.ID != m.ID {
		return false, nil
	}
	root, err := openat.Reopen(there, os.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, err
	}
	defer root.Close()
	if !v.IsOn(root) {
		return false, nil
	}
	return filesystem.Thaw(root)
}
