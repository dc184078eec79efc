package staging

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// accesses are the devices that one image may have: one for all pods that write, and one for all
// that only read, because a read-only mount of a device's node does not keep anybody from writing
// to the device.
func accesses() []loopdev.Access { return []loopdev.Access{loopdev.ReadWrite, loopdev.ReadOnly} }

// Attach puts the image of a raw block volume on a device, unless it is on one with that access,
// and returns the device's node, open with O_PATH, to be bind-mounted. The device stays until
// Release. The caller closes the node.
func (v Volume) Attach(ctx context.Context, access loopdev.Access) (*os.File, error) {
	image, err := v.Pool.OpenImage(v.ID)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	device, err := loopdev.Find(image, access)
	if errors.Is(err, os.ErrNotExist) {
		device, err = v.attachUncopied(ctx, image, access)
	}
	if err != nil {
		return nil, err
	}
	defer device.Close()
	if err := v.secure(ctx, device); err != nil {
		return nil, err
	}
	return device.Show()
}

// secure puts a device right that pods have, or are about to have, and keeps it attached whatever
// they do.
func (v Volume) secure(ctx context.Context, device *loopdev.Device) error {
	if err := device.Guard(); err != nil {
		return err
	}
	mended, err := device.Mend()
	if mended {
		klog.FromContext(
			ctx,
		).Info(
			"Somebody had asked the kernel to detach the device of a raw block volume, or to change it: it is as it was",
			"volumeID",
			v.ID,
			"device",
			device.Path(),
		)
	}
	return err
}

// attachUncopied attaches an image that nobody copies: as long as a copy takes its time, nobody may
// be able to write. Errors: ErrBusy.
func (v Volume) attachUncopied(
	ctx context.Context, image *os.File, access loopdev.Access,
) (*loopdev.Device, error) {
	release, err := v.Pool.Claim(v.ID)
	if err != nil {
		return nil, err
	}
	defer release()
	return v.attach(ctx, image, loopdev.Options{Access: access, Lifetime: loopdev.UntilDetached})
}

// ReplacesOther refuses to show a raw block volume at a target that shows it with another access.
// Errors: ErrIncompatible.
func (v Volume) ReplacesOther(node *os.File, at mount.Target) error {
	there, err := v.deviceShownAt(at)
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

// deviceShownAt is the device of the volume's image whose node a target shows. Errors:
// os.ErrNotExist.
func (v Volume) deviceShownAt(at mount.Target) (*loopdev.Device, error) {
	number, err := deviceNodeAt(at)
	if err != nil {
		return nil, err
	}
	device, err := loopdev.Open(number)
	if err != nil {
		return nil, err
	}
	if !v.Pool.IsImageOf(v.ID, device) {
		device.Close()
		return nil, fmt.Errorf("%s is not on %s: %w", v.ID, at, os.ErrNotExist)
	}
	return device, nil
}

// DeviceBytes is the size of the device that a target shows. Errors: ErrNotFound when it is not the
// volume's.
func (v Volume) DeviceBytes(at mount.Target) (int64, error) {
	device, err := v.deviceShownAt(at)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: volume %s is no longer at %s", volume.ErrNotFound, v.ID, at)
	}
	if err != nil {
		return 0, err
	}
	defer device.Close()
	return device.Bytes()
}

// each calls do for every device that the image has.
func (v Volume) each(do func(*loopdev.Device) error) error {
	image, err := v.Pool.Data(v.ID)
	if err != nil {
		return err
	}
	defer image.Close()
	var errs []error
	for _, access := range accesses() {
		device, err := loopdev.Find(image, access)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = do(device)
			device.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// GrowDevices makes every device of the image as large as the image has become.
func (v Volume) GrowDevices(ctx context.Context) error {
	return v.each(func(d *loopdev.Device) error { return v.secure(ctx, d) })
}

// Nodes are the nodes of every device that the image has, open with O_PATH. The caller closes them.
func (v Volume) Nodes() ([]*os.File, error) {
	var nodes []*os.File
	err := v.each(func(d *loopdev.Device) error {
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
	image, err := v.Pool.Data(v.ID)
	if err != nil {
		return err
	}
	defer image.Close()
	var errs []error
	for _, number := range DevicesAt(targets...) {
		device, err := loopdev.Open(number)
		if err != nil { // nobody has detached it, or the disk has died
			continue
		}
		if device.Access() == loopdev.ReadOnly && !v.Pool.IsImageOf(v.ID, device) && isGuarded(number) {
			klog.FromContext(
				ctx,
			).Info("A pod had put a file of its own on a read-only device: its readers see the volume again",
				"volumeID", v.ID, "device", device.Path())
			errs = append(errs, device.Restore(image))
		}
		device.Close()
	}
	return errors.Join(errs...)
}

func isGuarded(number int) bool {
	device, err := loopdev.Guarded(number)
	if err == nil {
		device.Close()
	}
	return err == nil
}

// DevicesAt are the numbers of the devices whose nodes targets show. It asks nothing of the
// devices.
func DevicesAt(targets ...mount.Target) (numbers []int) {
	for _, at := range targets {
		if n, err := deviceNodeAt(at); err == nil && !slices.Contains(numbers, n) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// deviceNodeAt is the number of the device whose node a target shows. Errors: os.ErrNotExist.
func deviceNodeAt(at mount.Target) (int, error) {
	f, mounted, err := mount.Open(at)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if !mounted {
		return 0, fmt.Errorf("%s is no mount: %w", at, os.ErrNotExist)
	}
	return loopdev.NumberOfNode(f)
}

// Release detaches the devices of a raw block volume that none of the targets shows: those of its
// image, and those that targets have shown until now, whose file a pod may have exchanged for its
// own. It needs no disk: a volume whose disk has died can be released.
func (v Volume) Release(targets []mount.Target, were ...int) error {
	shown := DevicesAt(targets...)
	err := v.each(func(d *loopdev.Device) error {
		if slices.Contains(shown, d.Number()) {
			return nil
		}
		return release(d, were)
	})
	guarded := were
	if loopdev.IsOfDeadDisk(err) {
		guarded, err = append(slices.Clone(were), devicesOfDeadDisk(v.ID)...), nil
	}
	for _, number := range guarded {
		if !slices.Contains(shown, number) {
			err = errors.Join(err, detachGuarded(number))
		}
	}
	return err
}

// release detaches a device. A target that shows a read-only one may be unknown, if its pod had
// exchanged the file when the driver started: whoever wants its number next looks for one.
func release(d *loopdev.Device, were []int) error {
	err := d.Detach()
	if err == nil && d.Access() == loopdev.ReadWrite && slices.Contains(were, d.Number()) {
		err = d.Hide()
	}
	return err
}

// detachGuarded detaches a device of which nothing is known but that it was a raw block volume's.
func detachGuarded(number int) error {
	device, err := loopdev.Guarded(number)
	if errors.Is(err, os.ErrNotExist) { // detached already, or somebody else's
		return nil
	}
	if err != nil {
		return err
	}
	defer device.Close()
	return device.Detach()
}

// devicesOfDeadDisk are the devices that do not say which file they have, and where the kernel says
// that it is the volume's.
func devicesOfDeadDisk(id volume.ID) (dead []int) {
	numbers, err := loopdev.Attached()
	if err != nil {
		return nil
	}
	for _, n := range numbers {
		device, err := loopdev.Open(n)
		if err == nil {
			device.Close()
		}
		if loopdev.IsOfDeadDisk(err) && mayBeImageOf(id, n) {
			dead = append(dead, n)
		}
	}
	return dead
}

// Reconcile takes up what a crash has left of a pool's images, before anybody can find the pool: a
// device that no target shows is detached, and a filesystem that was frozen for a snapshot is
// thawed. Its cost grows with the number of devices and mounts: once a start.
func Reconcile(ctx context.Context, p *pool.Pool, targetsOf func(id string) []mount.Target) error {
	numbers, err := loopdev.Attached()
	if err != nil || len(numbers) == 0 {
		return err
	}
	mounts, err := mount.Table()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		device, err := loopdev.Open(n)
		if err != nil { // detached meanwhile, or a partition of somebody's
			continue
		}
		id, ours := p.VolumeOn(device)
		device.Close()
		if !ours {
			continue
		}
		if err := reconcile(ctx, p, id, mountsOf(mounts, n), targetsOf(id.String())); err != nil {
			klog.FromContext(
				ctx,
			).Error(err, "What a crash left of an image stays", "volumeID", id, "device", n)
		}
	}
	return nil
}

func reconcile(
	ctx context.Context, p *pool.Pool, id volume.ID, mounts []mount.Mount, targets []mount.Target,
) error {
	v, err := p.Get(id)
	if err != nil {
		return err
	}
	if v.Spec.IsBlock() {
		return Volume{Volume: v, Pool: p}.resumeDevices(ctx, targets)
	}
	for _, m := range mounts {
		thawed, err := thaw(m.Point, p, id)
		if thawed {
			klog.FromContext(
				ctx,
			).Info("A crash had left the filesystem of a volume frozen; its writers go on", "volumeID", id)
		}
		if thawed || err != nil {
			return err
		}
	}
	return nil
}

// resumeDevices detaches the devices that no target shows, and puts the others right.
func (v Volume) resumeDevices(ctx context.Context, targets []mount.Target) error {
	if err := v.Release(targets); err != nil {
		return err
	}
	return v.each(func(d *loopdev.Device) error { return v.secure(ctx, d) })
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

// thaw thaws the filesystem of a volume's image; false if something else is mounted above it.
func thaw(path string, p *pool.Pool, id volume.ID) (bool, error) {
	root, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer root.Close()
	if !(Volume{Volume: volume.Volume{ID: id}, Pool: p}).IsOn(root) {
		return false, nil
	}
	return filesystem.Thaw(root)
}
