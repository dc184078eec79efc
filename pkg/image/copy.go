package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// maxQuiesced bounds how long the writers of a volume wait for a copy of its image. With
	// reflinks the copy takes milliseconds, unless the image is in hundreds of thousands of pieces.
	// Without reflinks it takes as long as the disk needs.
	maxQuiesced = 30 * time.Second
	// reflinkStep is how much of an image is reflinked between two looks at the context. One call
	// takes some seconds at most, which is when each block is a piece of its own: 8 s were measured
	// for 524,288 of them.
	reflinkStep = 1 << 30
)

// Source is an image that is copied. Nobody attaches it, expands it or deletes it until the copy is
// made.
type Source struct {
	// Name is the source in errors and in the log.
	Name fmt.Stringer
	// Dir is the directory that has the image.
	Dir  openat.Dir
	Spec volume.Spec
	// Bytes is the size of the image.
	Bytes int64
}

// MakeFrom is Make for an image of so many bytes that begins with a copy of the source, as the
// source is at one moment. A filesystem in it keeps its size. Pods that write to the source wait
// meanwhile. The copy is durable, but for its name. Options.Durability is ignored. The caller
// closes the file. Errors: ErrBusy when the source's filesystem is frozen already, or the source
// has another size; ErrInUse when pods write to the source and it cannot be copied at one moment;
// ErrCorrupt when there is no source.
func (i Image) MakeFrom(
	ctx context.Context, dir openat.Dir, from Source, bytes int64, opts copytree.Options,
) (*os.File, error) {
	f, err := from.copyInto(ctx, dir, opts)
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", from.Name, err)
	}
	if err := errors.Join(i.fill(f), i.resize(f, bytes)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// copyInto copies the image into a directory. After a failure the caller removes the parts that
// remain there.
func (s Source) copyInto(
	ctx context.Context, dir openat.Dir, opts copytree.Options,
) (_ *os.File, err error) {
	// O_PATH, because loopdev.Find is slow for a file that somebody has open.
	source, err := backend.OpenData(s.Dir, unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("%w: data of %s: %w", volume.ErrCorrupt, s.Name, err)
	}
	defer source.Close()
	q, err := quiesce(ctx, source, s)
	if err != nil {
		return nil, err
	}
	data, err := q.copyInto(ctx, dir, opts)
	err = errors.Join(err, q.resume())
	if err == nil {
		err = checkCopied(data, s.Bytes)
	}
	if err == nil {
		err = data.Sync()
	}
	if err != nil && data != nil {
		data.Close()
	}
	return data, err
}

// checkCopied refuses a copy that is not as large as its record is going to say. Errors: ErrBusy.
func checkCopied(f *os.File, want int64) error {
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

// copyInto makes the copy: by reflink, which is one moment even under writers, or block by block,
// for which nobody may write.
func (q *quiesced) copyInto(
	ctx context.Context, dir openat.Dir, opts copytree.Options,
) (*os.File, error) {
	source, err := openat.Reopen(q.image, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	data, _, err := New(volume.Sparse).Make(dir, q.from.Spec, q.from.Bytes)
	if err != nil {
		return nil, err
	}
	ctx, cancel := q.limit(ctx)
	defer cancel()
	if err := q.reflink(ctx, source, data); err == nil || !lacksReflinks(err) {
		return data, err
	}
	return data, q.copyBlocks(ctx, source, data, opts)
}

// copyBlocks copies all data and skips holes. It does not sync: writers are stopped only while
// blocks are copied, not until the copy is durable.
func (q *quiesced) copyBlocks(
	ctx context.Context, source, data *os.File, opts copytree.Options,
) error {
	if q.device != nil && q.frozen == nil {
		return fmt.Errorf(
			"%w: pods write to it, and a filesystem without reflinks copies no disk at one moment: "+
				"take its snapshot while no pod has it, or use a pool on XFS or btrfs",
			volume.ErrInUse,
		)
	}
	opts.Durability = copytree.Volatile
	if q.frozen != nil {
		opts.Limiter = nil // the pods that write have waited long enough
	}
	_, err := copytree.Tree(ctx, source, data, opts)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return err
}

// reflink shares all blocks of a file with another file of the same size. While writers are held it
// does so step by step, so that it ends with the context. Otherwise it is one call, because writers
// could change the image between two steps.
func (q *quiesced) reflink(ctx context.Context, source, data *os.File) error {
	if q.frozen == nil {
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
			Src_fd:      int64(source.Fd()), //nolint:gosec // a small number
			Src_offset:  uint64(at),
			Dest_offset: uint64(at),
			Src_length:  uint64(min(reflinkStep, info.Size()-at)), //nolint:gosec // never negative
		}
		if err := unix.IoctlFileCloneRange(int(data.Fd()), &part); err != nil {
			return os.NewSyscallError("ioctl FICLONERANGE", err)
		}
	}
	return nil
}

// lacksReflinks says whether the filesystem cannot share the blocks of these files
// (ioctl_ficlone(2)), so that the blocks are copied instead. A full disk or an I/O error does not
// count as that.
func lacksReflinks(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) ||
		errors.Is(err, unix.EXDEV) ||
		errors.Is(err, unix.EINVAL)
}
