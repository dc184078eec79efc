package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// frozenAtMost bounds how long the writers of a volume wait for a copy of its image: with
	// reflinks that takes milliseconds, unless the image is in hundreds of thousands of pieces, and
	// without them as long as the disk needs.
	frozenAtMost = 30 * time.Second
	// reflinkStep is how much of an image is reflinked between two looks at the time. One call
	// takes some seconds at most, which is when each block is a piece of its own: 8 s were measured
	// for 524,288 of them.
	reflinkStep = 1 << 30
)

// Claim keeps everybody from copying a volume until release: it is about to be written to. Errors:
// ErrBusy while it is copied or changed.
func (p *Pool) Claim(id volume.ID) (release func(), err error) {
	if err := p.index.claim(id); err != nil {
		return nil, err
	}
	if err := p.index.checkUnheld(id); err != nil {
		p.index.unclaim(id)
		return nil, err
	}
	return func() { p.index.unclaim(id) }, nil
}

// duplicateImage copies an origin's image into the directory of what is being built, as it is at
// one moment. It is durable when it returns, but for its name.
func (p *Pool) duplicateImage(
	ctx context.Context, d dir, from *origin, progress *copytree.Progress,
) (*os.File, error) {
	// Not opened further before it is looked for among the devices: see loopdev.Find.
	source, err := backend.OpenData(from.dir.File, unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("%w: data of %s: %w", volume.ErrCorrupt, from.id, err)
	}
	defer source.Close()
	s, err := holdStill(ctx, source, from)
	if err != nil {
		return nil, err
	}
	// Writers are held for the copy only, and not until that has reached the disk.
	opts := copytree.Options{
		Progress:   progress,
		Limiter:    p.throttle.limiter,
		Durability: copytree.Volatile,
	}
	if s.frozen != nil {
		opts.Limiter = nil // the pods that write have waited long enough
	}
	data, err := s.copyTo(ctx, d, opts)
	err = errors.Join(err, s.release())
	if err == nil {
		err = checkSize(data, from.restoreBytes)
	}
	if err == nil {
		err = data.Sync()
	}
	if err != nil {
		if data != nil {
			data.Close()
		}
		return nil, fmt.Errorf("copy %s: %w", from.id, err)
	}
	return data, nil
}

// checkSize refuses an image that is not as large as its record is going to say. Errors: ErrBusy.
func checkSize(f *os.File, want int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Size != want {
		return fmt.Errorf("%w: its image has %d bytes, and had %d when the copy began: ask again",
			volume.ErrBusy, st.Size, want)
	}
	return nil
}

// still is an image that does not change under its copy.
type still struct {
	from   *origin
	image  *os.File // O_PATH
	device *loopdev.Device
	frozen *os.File // a file of the filesystem that was frozen
	since  time.Time
	log    klog.Logger
}

// holdStill makes what is written to an image arrive in it, and holds further writers where there
// is a filesystem that can. A raw block device has no way to hold its writers; its image can only
// be copied at once. Errors: ErrBusy when it is frozen already.
func holdStill(ctx context.Context, f *os.File, from *origin) (*still, error) {
	s := &still{from: from, image: f, log: klog.FromContext(ctx)}
	device, err := loopdev.Find(f, loopdev.ReadWrite)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	s.device = device
	if from.spec.IsBlock() {
		err = s.flush()
	} else {
		err = s.freeze()
	}
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	failpoint.Here("snapshot.frozen")
	return s, nil
}

// flush writes what the device's own cache has.
func (s *still) flush() error {
	node, err := os.OpenFile(s.device.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(node.Sync(), node.Close())
}

// freeze makes the filesystem whole on its device and holds its writers. One that is on a device
// and not mounted is about to be; Claim keeps that from happening now. Errors: ErrInUse when it is
// mounted where the driver does not see it.
func (s *still) freeze() error {
	f, err := s.mounted()
	if err != nil {
		return err
	}
	if f == nil {
		claimed, err := s.device.IsClaimed()
		if claimed {
			err = fmt.Errorf("%w: %s is mounted, and not where the driver sees it: nothing could be flushed",
				volume.ErrInUse, s.device.Path())
		}
		return err
	}
	// Freezing holds the writers first, and then writes all that they have changed (fs/super.c,
	// freeze_super): what can be is written before.
	if err = unix.Syncfs(int(f.Fd())); err == nil {
		s.since = time.Now()
		err = filesystem.Freeze(f)
	}
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: %w", volume.ErrBusy, err)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.frozen = f
	return nil
}

// mounted opens something of the filesystem on the device; nil if it is not mounted.
func (s *still) mounted() (*os.File, error) {
	mounts, err := mount.Table()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if n, ok := loopdev.NumberAt(m.Source); !ok || n != s.device.Number() {
			continue
		}
		f, err := os.OpenFile(m.Point, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil { // what is mounted above may hide it
			continue
		}
		if isOn(f, s.device) {
			return f, nil
		}
		f.Close()
	}
	return nil, nil //nolint:nilnil // said above
}

func isOn(f *os.File, device *loopdev.Device) bool {
	under, err := loopdev.Under(f)
	if err != nil {
		return false
	}
	defer under.Close()
	return under.Number() == device.Number()
}

// release lets the writers go on.
func (s *still) release() error {
	var err error
	if s.frozen != nil {
		_, err = filesystem.Thaw(s.frozen)
		s.frozen.Close()
		s.log.Info("The writers of a volume were held while its image was copied", "source", s.from.id,
			"took", time.Since(s.since))
	}
	if s.device != nil {
		s.device.Close()
	}
	return err
}

// copyTo makes the copy: by reflink, which is one moment even under writers, or block by block, for
// which nobody may write.
func (s *still) copyTo(ctx context.Context, d dir, opts copytree.Options) (*os.File, error) {
	source, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", s.image.Fd()),
		os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	data, _, err := image.New(volume.Sparse).Make(d.File, s.from.spec, s.from.restoreBytes)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.boundHold(ctx)
	defer cancel()
	if err := s.reflink(ctx, source, data); err == nil || !lacksReflinks(err) {
		return data, err
	}
	if s.device != nil && s.frozen == nil {
		return data, fmt.Errorf(
			"%w: pods write to it, and a filesystem without reflinks copies no disk at one moment: "+
				"take its snapshot while no pod has it, or use a pool on XFS or btrfs",
			volume.ErrInUse,
		)
	}
	_, err = copytree.Tree(ctx, source, data, opts)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return data, err
}

// boundHold ends a context when writers have been held for long enough.
func (s *still) boundHold(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.frozen == nil {
		return context.WithCancel(ctx)
	}
	cause := fmt.Errorf(
		"%w: copying its image would hold its writers for more than %s: take its snapshot while no pod has it, or, "+
			"where files cannot be reflinked, use a pool on XFS or btrfs",
		volume.ErrInUse,
		frozenAtMost,
	)
	return context.WithDeadlineCause(ctx, s.since.Add(frozenAtMost), cause)
}

// reflink shares all blocks of a file with another one, of its size: at once, which is one moment
// whoever writes, or, while nobody can, some at a time, so that it ends with the context.
func (s *still) reflink(ctx context.Context, source, data *os.File) error {
	if s.frozen == nil {
		return os.NewSyscallError("ioctl FICLONE", unix.IoctlFileClone(int(data.Fd()), int(source.Fd())))
	}
	info, err := source.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); at += reflinkStep {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := unix.FileCloneRange{
			Src_fd:      int64(source.Fd()),
			Src_offset:  uint64(at),
			Dest_offset: uint64(at),                               //nolint:gosec // never negative
			Src_length:  uint64(min(reflinkStep, info.Size()-at)), //nolint:gosec // as above
		}
		if err := unix.IoctlFileCloneRange(int(data.Fd()), &part); err != nil {
			return os.NewSyscallError("ioctl FICLONERANGE", err)
		}
	}
	return nil
}

// lacksReflinks says whether a copy may be made in another way: the filesystem cannot share these
// files' blocks (ioctl_ficlone(2)). A full or sick disk is no reason for one.
func lacksReflinks(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) ||
		errors.Is(err, unix.EXDEV) ||
		errors.Is(err, unix.EINVAL)
}

// freezeImage is freeze for an image.
func (p *Pool) freezeImage(
	ctx context.Context, d dir, s *volume.Snapshot, from *origin, progress *copytree.Progress,
) (*os.File, error) {
	data, err := p.duplicateImage(ctx, d, from, progress)
	if err != nil {
		return nil, err
	}
	s.FilesystemBytes = from.filesystemBytes
	allocated, err := image.Image{}.Allocated(data, 0)
	if err != nil {
		return nil, errors.Join(err, data.Close())
	}
	p.settle(&s.HeldBytes, min(allocated, s.RestoreBytes))
	return data, nil
}

// makeImage is copied's make for an image. The filesystem in it is as large as its source's, and
// grows when the volume is staged.
func (c copied) makeImage(ctx context.Context, p *Pool, d dir, v *volume.Volume) (*os.File, error) {
	data, err := p.duplicateImage(ctx, d, c.from, c.progress)
	if err != nil {
		return nil, err
	}
	b := image.New(v.Spec.Allocation)
	if err := errors.Join(b.Fill(data), b.Resize(d.File, 0, v.Spec, v.CapacityBytes)); err != nil {
		return nil, errors.Join(err, data.Close())
	}
	v.FilesystemBytes = c.from.filesystemBytes
	return data, nil
}
