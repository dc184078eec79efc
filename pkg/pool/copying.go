package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// copyMethod is how the data of a volume or of a snapshot is copied. It is decided when a copy
// begins.
type copyMethod int

const (
	// byFilesystem: the filesystem makes a snapshot or a clone at one moment (backend.Cloner).
	byFilesystem copyMethod = iota
	// byImage: the file of an image is copied at one moment (pkg/image).
	byImage
	// byFiles: a directory or a file is copied file by file (pkg/copytree).
	byFiles
)

// copyMethodOf returns how a source with that specification is copied into the pool.
func (p *Pool) copyMethodOf(spec volume.Spec) copyMethod {
	_, lacksCloner := p.cloner.(backend.NoCloner)
	switch {
	case spec.IsImage():
		return byImage
	case lacksCloner:
		return byFiles
	default:
		return byFilesystem
	}
}

// copying is one copy that is under way.
type copying struct {
	pool     *Pool // the pool that gets the copy
	from     *copySource
	method   copyMethod
	progress *copytree.Progress
	// wasRefused: the filesystem has refused to copy this source at one moment.
	wasRefused bool
	leave      func() // lets the next copy begin
}

// beginCopy waits until this pool may make a copy, and only then shares the source. During the wait
// the source may be staged, expanded and deleted; the copy has the content that the source has
// after the wait. A source that cannot be copied is refused before the wait. The caller calls end.
func (p *Pool) beginCopy(
	ctx context.Context, share func() (*copySource, error), progress *copytree.Progress,
) (*copying, error) {
	first, err := share()
	if err != nil {
		return nil, err
	}
	first.release()
	c := &copying{
		pool: p, method: p.copyMethodOf(first.spec), progress: progress, leave: func() {},
	}
	if c.method != byFilesystem { // a copy by the filesystem needs no throttle
		if err := c.takeTurn(ctx); err != nil {
			return nil, err
		}
	}
	if c.from, err = share(); err != nil {
		c.leave()
		return nil, err
	}
	if p.copyMethodOf(c.from.spec) != c.method {
		c.end()
		return nil, fmt.Errorf("%w: %s has been made anew as something else: ask again", volume.ErrBusy,
			c.from.id)
	}
	return c, nil
}

// end releases the source and lets the next copy begin.
func (c *copying) end() {
	c.from.release()
	c.leave()
}

func (c *copying) takeTurn(ctx context.Context) (err error) {
	leave, err := c.pool.throttle.Enter(ctx)
	if err == nil {
		c.leave = leave
	}
	return err
}

// ways are the functions that make the data of a copy, one for each method. The returned file is
// open. Its content is durable, its name is not.
type ways struct {
	// clone returns errors.ErrUnsupported if the filesystem refuses this source.
	clone, image, files func() (*os.File, error)
}

// make makes the data of the copy. If the filesystem refuses to copy the source at one moment, the
// source is copied file by file.
func (c *copying) make(ctx context.Context, w ways) (*os.File, error) {
	if c.method == byImage {
		return w.image()
	}
	if c.method == byFilesystem {
		data, err := w.clone()
		if !errors.Is(err, errors.ErrUnsupported) {
			return data, err
		}
		c.method, c.wasRefused = byFiles, true
		if err := c.takeTurn(ctx); err != nil {
			return nil, err
		}
	}
	return w.files()
}

// source returns the source in the form that backend.Cloner takes.
func (c *copying) source() backend.Source {
	return backend.Source{Dir: c.from.dir.File, QuotaID: c.from.quotaID}
}

// copyImage makes an image of that many bytes in d, the directory of the unfinished volume or
// snapshot. The image begins with a copy of the source's image. The filesystem in it keeps the
// source's size.
func (c *copying) copyImage(
	ctx context.Context, d openat.Dir, allocation volume.Allocation, bytes int64,
) (*os.File, error) {
	source := image.Source{
		Name: c.from.id, Dir: c.from.dir.File, Spec: c.from.spec, Bytes: c.from.restoreBytes,
	}
	opts := copytree.Options{Progress: c.progress, Limiter: c.pool.throttle.Limiter}
	return image.New(allocation).MakeFrom(ctx, d.File, source, bytes, opts)
}

// bound limits a copy to the size and inodes of its target volume or, for a snapshot, of its
// source. inodes 0 means no limit.
type bound struct {
	bytes  int64
	inodes uint64
}

const (
	// While a copy is made, it may exceed its size by copySlack and an eighth of its size: directories
	// and the extent maps of large files may need more blocks than in the source.
	copySlack = 1 << 20
	// quotaSlack is added to a quota limit: XFS charges delayed writes before it allocates their
	// blocks.
	quotaSlack = 64 << 20
)

func (b bound) withSlack() int64 { return ledger.Sum(b.bytes, b.bytes/8+copySlack) }

// options limit a copy to a bound, because a quota does not always limit it: ext4 exempts the
// driver from its quotas (CAP_SYS_RESOURCE), and a plain pool has no quotas. On btrfs, where files
// are copied only after a refused clone, the quota alone is the limit: btrfs exempts no process,
// and counts a block that several files share only once.
func (c *copying) options(b bound) copytree.Options {
	opts := copytree.Options{
		Progress: c.progress, Limiter: c.pool.throttle.Limiter, Yielder: &c.pool.calls,
		MaxBytes: b.withSlack(), MaxEntries: int64(min(b.inodes, math.MaxInt64)),
	}
	if c.wasRefused && c.pool.backend.Enforces() {
		opts.MaxBytes = 0
	}
	return opts
}

// copyFiles copies the source's data file by file into d, the directory of the unfinished volume or
// snapshot, under a quota ID of its own. It returns the quota ID also on failure. Errors:
// ErrOutOfRange when the source exceeds the bound, ErrPrecondition when the source is too deep.
func (c *copying) copyFiles(
	ctx context.Context, d openat.Dir, to bound,
) (made backend.Clone, held int64, err error) {
	// Only O_PATH: a pod may have a lease on a file, and a full open would wait for the lease.
	source, err := backend.OpenData(c.from.dir.File, unix.O_PATH)
	if err != nil {
		return made, 0, fmt.Errorf("%w: data of %s: %w", volume.ErrCorrupt, c.from.id, err)
	}
	defer source.Close()
	spec := c.from.spec
	// The copier needs inodes of its own. The volume's inode limit is set after the copy.
	spec.Inodes = 0
	limit := ledger.Sum(to.withSlack(), quotaSlack)
	if made.Data, made.QuotaID, err = c.pool.backend.Make(d.File, spec, limit); err != nil {
		return made, 0, err
	}
	stats, err := copytree.Tree(ctx, source, made.Data, c.options(to))
	if err == nil {
		held, err = c.heldBy(made, stats)
	}
	if err != nil {
		return made, 0, errors.Join(c.explain(err, to), made.Data.Close())
	}
	return made, held, nil
}

// explain adds to the failure of a copy what the caller can do about it.
func (c *copying) explain(err error, to bound) error {
	switch {
	case errors.Is(err, copytree.ErrTooDeep):
		return fmt.Errorf("%w: %s: %w", volume.ErrPrecondition, c.from.id, err)
	case errors.Is(err, copytree.ErrTooLarge):
		return fmt.Errorf("%w: %s has more than %d bytes or %d files and directories (0: any number), "+
			"or pods write to it faster than it is copied: expand it, or ask for a larger copy: %w",
			volume.ErrOutOfRange, c.from.id, to.bytes, to.inodes, err)
	default:
		return err
	}
}

// heldBy returns the bytes that a copy takes of the disk: the filesystem's count if the copy has a
// quota ID, else the copier's own count.
func (c *copying) heldBy(made backend.Clone, stats copytree.Stats) (int64, error) {
	if made.QuotaID == 0 {
		return stats.AllocatedBytes, nil
	}
	u, err := c.pool.backend.Usage(made.Data, made.QuotaID)
	return u.UsedBytes, err
}
