package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// quiesced is an image that is ready to be copied: what pods have written is in the file, and where
// there is a filesystem that can be frozen, nobody writes until resume.
type quiesced struct {
	from   Source
	image  *os.File // O_PATH
	device *loopdev.Device
	frozen *os.File // a file of the filesystem that was frozen
	since  time.Time
	log    klog.Logger
}

// quiesce flushes writes to the image file, and freezes its filesystem if there is one. The writers
// of a raw block device cannot be stopped; its image can only be copied by one reflink. Errors:
// ErrBusy when the filesystem is frozen already, ErrInUse.
func quiesce(ctx context.Context, f *os.File, from Source) (*quiesced, error) {
	q := &quiesced{from: from, image: f, log: klog.FromContext(ctx)}
	device, err := loopdev.Find(f, loopdev.ReadWrite)
	if errors.Is(err, os.ErrNotExist) {
		return q, nil
	}
	if err != nil {
		return nil, err
	}
	q.device = device
	if from.Spec.IsBlock() {
		err = q.flush()
	} else {
		err = q.freeze()
	}
	if err != nil {
		return nil, errors.Join(err, q.resume())
	}
	failpoint.Here("snapshot.frozen")
	return q, nil
}

// flush writes the dirty pages of the device to the image file.
func (q *quiesced) flush() error {
	node, err := os.OpenFile(q.device.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(node.Sync(), node.Close())
}

// freeze writes the whole filesystem to its device and freezes it, so that its writers wait. A
// filesystem that is on a device and not mounted is about to be mounted; the caller prevents that
// now. Errors: ErrInUse when it is mounted where the driver does not see it.
func (q *quiesced) freeze() error {
	f, err := q.openMounted()
	if err != nil {
		return err
	}
	if f == nil {
		return q.checkUnclaimed()
	}
	// Freezing stops the writers first, and then writes all that they have changed (fs/super.c,
	// freeze_super). What can be written before the freeze is written here.
	if err = unix.Syncfs(int(f.Fd())); err == nil {
		q.since = time.Now()
		err = filesystem.Freeze(f)
	}
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: %w", volume.ErrBusy, err)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	q.frozen = f
	return nil
}

// checkUnclaimed refuses a device that somebody has mounted. Errors: ErrInUse.
func (q *quiesced) checkUnclaimed() error {
	claimed, err := q.device.IsClaimed()
	if claimed {
		err = fmt.Errorf("%w: %s is mounted, and not where the driver sees it: nothing could be flushed",
			volume.ErrInUse, q.device.Path())
	}
	return err
}

// openMounted opens something of the filesystem on the device; nil if it is not mounted.
func (q *quiesced) openMounted() (*os.File, error) {
	mounts, err := mount.Table()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if n, ok := loopdev.NumberAt(m.Source); !ok || n != q.device.Number() {
			continue
		}
		f, err := os.OpenFile(m.Point, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil { // another mount above may hide it
			continue
		}
		if n, err := loopdev.NumberUnder(f); err == nil && n == q.device.Number() {
			return f, nil
		}
		f.Close()
	}
	return nil, nil //nolint:nilnil // said above
}

// limit ends a context when writers have waited for maxQuiesced.
func (q *quiesced) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if q.frozen == nil {
		return context.WithCancel(ctx)
	}
	cause := fmt.Errorf(
		"%w: its writers would wait for more than %s while its image is copied: "+
			"create its snapshot while no pod has it, or, where files cannot be reflinked, "+
			"use a pool on XFS or btrfs",
		volume.ErrInUse,
		maxQuiesced,
	)
	return context.WithDeadlineCause(ctx, q.since.Add(maxQuiesced), cause)
}

// resume lets the writers go on.
func (q *quiesced) resume() error {
	var err error
	if q.frozen != nil {
		_, err = filesystem.Thaw(q.frozen)
		q.frozen.Close()
		q.log.Info("The writers of a volume have waited while its image was copied",
			"source", q.from.Name, "took", time.Since(q.since))
	}
	if q.device != nil {
		q.device.Close()
	}
	return err
}
