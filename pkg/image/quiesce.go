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
	root   *os.File // a file of the filesystem, if it is mounted
	frozen *os.File // root, once the filesystem is frozen
	since  time.Time
	log    klog.Logger
}

// quiesce flushes writes to the image file, and freezes its filesystem if there is one. The writers
// of a raw block device cannot be stopped; its image can only be copied by one reflink. Errors:
// ErrBusy when the filesystem is frozen already, ErrInUse.
func quiesce(ctx context.Context, f *os.File, from Source) (*quiesced, error) {
	q, err := flush(ctx, f, from)
	if err != nil {
		return nil, err
	}
	if err := q.freeze(); err != nil {
		return nil, errors.Join(err, q.resume())
	}
	return q, nil
}

// flush is the part of quiesce for which nobody has to wait. Errors: ErrInUse when the filesystem
// is mounted where the driver does not see it.
func flush(ctx context.Context, f *os.File, from Source) (*quiesced, error) {
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
		err = q.flushDevice()
	} else {
		err = q.flushFilesystem()
	}
	if err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// flushDevice writes the dirty pages of the device to the image file.
func (q *quiesced) flushDevice() error {
	node, err := os.OpenFile(q.device.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(node.Sync(), node.Close())
}

// flushFilesystem writes the whole filesystem to its device. A filesystem that is on a device and
// not mounted is about to be mounted; the caller prevents that now.
func (q *quiesced) flushFilesystem() (err error) {
	if q.root, err = q.openMounted(); err != nil {
		return err
	}
	if q.root == nil {
		return q.checkUnclaimed()
	}
	// Freezing stops the writers first, and then writes all that they have changed (fs/super.c,
	// freeze_super). What can be written before the freeze is written here.
	return unix.Syncfs(int(q.root.Fd()))
}

// freeze freezes the filesystem after flush, so that its writers wait. Errors: ErrBusy when it is
// frozen already.
func (q *quiesced) freeze() error {
	if q.device == nil {
		return nil
	}
	if q.root != nil {
		q.since = time.Now()
		err := filesystem.Freeze(q.root)
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("%w: %w", volume.ErrBusy, err)
		}
		if err != nil {
			return err
		}
		q.frozen = q.root
	}
	failpoint.Here("snapshot.frozen")
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

// resume lets the writers go on, and closes what flush has opened.
func (q *quiesced) resume() error {
	err := q.thaw()
	q.close()
	return err
}

// thaw lets the writers go on.
func (q *quiesced) thaw() error {
	if q.frozen == nil {
		return nil
	}
	_, err := filesystem.Thaw(q.frozen)
	q.log.Info("The writers of a volume have waited while its image was copied",
		"source", q.from.Name, "took", time.Since(q.since))
	return err
}

// close closes what flush has opened.
func (q *quiesced) close() {
	if q.root != nil {
		q.root.Close()
	}
	if q.device != nil {
		q.device.Close()
	}
}
