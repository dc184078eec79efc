package staging

import (
	"context"
	"errors"
	"fmt"
	"os"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Attach puts the image of a raw block volume on a device, unless it is on one with that access,
// and returns the device's node, open with O_PATH, to be bind-mounted. The device stays until
// Release. The caller closes the node.
func (v Volume) Attach(ctx context.Context, access loopdev.Access) (*os.File, error) {
	f, err := v.OpenImage()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	device, err := loopdev.Find(f, access)
	if errors.Is(err, os.ErrNotExist) {
		device, err = v.attachUncopied(ctx, f, access)
	}
	if err != nil {
		return nil, err
	}
	defer device.Close()
	if err := v.secure(ctx, device); err != nil {
		return nil, err
	}
	return device.Expose()
}

// secure guards a device that pods have, or are about to have, against a detachment, and resets
// what they can change of it.
func (v Volume) secure(ctx context.Context, device *loopdev.Device) error {
	if err := device.Guard(); err != nil {
		return err
	}
	changed, err := device.ResetParameters()
	if changed {
		klog.FromContext(ctx).Info(
			"Somebody had asked the kernel to detach the device of a raw block volume, or to change it: it is as it was",
			"volumeID", v.ID, "device", device.Path(),
		)
	}
	return err
}

// attachUncopied attaches an image that nobody copies: while a copy goes on, nobody may be
// able to write. Errors: ErrBusy.
func (v Volume) attachUncopied(
	ctx context.Context, f *os.File, access loopdev.Access,
) (*loopdev.Device, error) {
	l, err := v.LockUncopied()
	if err != nil {
		return nil, err
	}
	defer l.Unlock()
	return v.attach(ctx, f, loopdev.Options{Access: access, Lifetime: loopdev.UntilDetached})
}

// ReplacesOther refuses to show a raw block volume at a target that shows it with another access.
// Errors: ErrIncompatible.
func (v Volume) ReplacesOther(node *os.File, at mount.Target) error {
	there, err := v.exposedAt(at)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer there.Close()
	wanted, err := loopdev.NodeOf(node)
	if err != nil {
		return err
	}
	defer wanted.Close()
	if there.Access() != wanted.Access() {
		return fmt.Errorf("%w: the volume is at %s, and the one is read-only and the other not",
			volume.ErrIncompatible, at)
	}
	return nil
}

// exposedAt is the device of the volume's image whose node a target shows. Errors: os.ErrNotExist.
func (v Volume) exposedAt(at mount.Target) (*loopdev.Device, error) {
	device, err := image.ExposedAt(at)
	if err != nil {
		return nil, err
	}
	if !v.HasImageOn(device) {
		device.Close()
		return nil, fmt.Errorf("%s is not on %s: %w", v.ID, at, os.ErrNotExist)
	}
	return device, nil
}

// DeviceBytes is the size of the device that a target shows. Errors: ErrNotFound when it is not the
// volume's.
func (v Volume) DeviceBytes(at mount.Target) (int64, error) {
	device, err := v.exposedAt(at)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: volume %s is no longer at %s", volume.ErrNotFound, v.ID, at)
	}
	if err != nil {
		return 0, err
	}
	defer device.Close()
	return device.Bytes()
}

// eachDevice calls do for every device that the image is on.
func (v Volume) eachDevice(do func(*loopdev.Device) error) error {
	f, err := v.Data()
	if err != nil {
		return err
	}
	defer f.Close()
	return image.EachDevice(f, do)
}

// GrowDevices makes every device of the image as large as the image has become.
func (v Volume) GrowDevices(ctx context.Context) error {
	return v.eachDevice(func(d *loopdev.Device) error { return v.secure(ctx, d) })
}

// Nodes are the nodes of every device that the image is on, open with O_PATH. The caller closes
// them.
func (v Volume) Nodes() ([]*os.File, error) {
	var nodes []*os.File
	err := v.eachDevice(func(d *loopdev.Device) error {
		node, err := d.Node()
		if err == nil {
			nodes = append(nodes, node)
		}
		return err
	})
	return nodes, err
}

// Restore puts the image back on the read-only devices that targets of the volume show, if a pod
// has exchanged it for a file of its own.
func (v Volume) Restore(ctx context.Context, targets []mount.Target) error {
	f, err := v.Data()
	if err != nil {
		return err
	}
	defer f.Close()
	var errs []error
	for _, number := range image.NodesAt(targets...) {
		device, err := loopdev.Open(number)
		if err != nil { // nobody has detached it, or the disk is dead
			continue
		}
		if !image.IsOn(f, device) && image.IsExchangeable(device) {
			klog.FromContext(ctx).Info(
				"A pod had put a file of its own on a read-only device: its readers see the volume again",
				"volumeID", v.ID, "device", device.Path(),
			)
			errs = append(errs, device.Restore(f))
		}
		device.Close()
	}
	return errors.Join(errs...)
}

// Release detaches the devices of a raw block volume that none of the targets shows: those of its
// image, and those that targets have shown until now. It needs no disk: a volume whose disk is dead
// can be released.
func (v Volume) Release(targets []mount.Target, were ...int) error {
	return image.Release(v.ID, v.Data, targets, were...)
}
