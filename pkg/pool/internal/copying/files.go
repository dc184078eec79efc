package copying

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// slack and an eighth of its size is how much a copy may exceed its size while it is made:
	// directories and the extent maps of large files may need more blocks than in the source.
	slack = 1 << 20
	// quotaSlack is added to the quota limit meanwhile: XFS charges delayed writes before it
	// allocates their blocks.
	quotaSlack = 64 << 20
)

// maxBytes is the most that a copy may take of the disk while it is made.
func (t Target) maxBytes() int64 { return ledger.Sum(t.Bytes, t.Bytes/8+slack) }

// copyFiles copies the source's data file by file, under a new quota ID.
func (c *Copy) copyFiles(ctx context.Context, from Source, to Target) (made Made, err error) {
	// Only O_PATH: a pod may have a lease on a file, and a full open would wait for the lease.
	source, err := backend.OpenData(from.Dir, unix.O_PATH)
	if err != nil {
		return made, fmt.Errorf("%w: data of %s: %w", volume.ErrCorrupt, from.Name, err)
	}
	defer source.Close()
	spec := from.Spec
	// The copier needs inodes of its own. The volume's inode limit is set after the copy.
	spec.Inodes = 0
	limit := ledger.Sum(to.maxBytes(), quotaSlack)
	data, quotaID, err := c.copier.Backend.Make(to.Dir, spec, limit)
	if err != nil {
		return made, err
	}
	made.QuotaID = quotaID
	stats, err := copytree.Tree(ctx, source, data, c.options(to))
	if err == nil {
		made.OccupiedBytes, err = c.occupied(data, quotaID, stats)
	}
	if err != nil {
		return made, errors.Join(explain(err, from, to), data.Close())
	}
	made.Data, made.Inodes = data, stats.Inodes()
	return made, nil
}

// options limit a copy to its target, because a quota does not always limit it: ext4 exempts the
// driver from its quotas (CAP_SYS_RESOURCE), and a plain pool has no quotas. On btrfs, where files
// are copied only after a refused clone, the quota alone is the limit: btrfs exempts no process,
// and counts a block that several files share only once.
func (c *Copy) options(to Target) copytree.Options {
	opts := copytree.Options{
		Progress:   c.progress,
		Limiter:    c.copier.Throttle.Limiter,
		Yielder:    c.copier.Yielder,
		MaxBytes:   to.maxBytes(),
		MaxEntries: int64(min(to.Inodes, math.MaxInt64)),
	}
	if c.cloneRefused && c.copier.Backend.Enforces() {
		opts.MaxBytes = 0
	}
	return opts
}

// occupied returns the bytes that a copy takes of the disk: the filesystem's count if the copy has
// a quota ID, else the count of the copied files.
func (c *Copy) occupied(
	data *os.File, quotaID volume.QuotaID, stats copytree.Stats,
) (int64, error) {
	if quotaID == 0 {
		return stats.AllocatedBytes, nil
	}
	u, err := c.copier.Backend.Usage(data, quotaID)
	return u.UsedBytes, err
}

// explain adds to the failure of a copy what the caller can do about it.
func explain(err error, from Source, to Target) error {
	switch {
	case errors.Is(err, copytree.ErrTooDeep):
		return fmt.Errorf("%w: %s: %w", volume.ErrPrecondition, from.Name, err)
	case errors.Is(err, copytree.ErrTooLarge):
		return fmt.Errorf("%w: %s has more than %d bytes or %d files and directories (0: any number), "+
			"or pods write to it faster than it is copied: expand it, or ask for a larger copy: %w",
			volume.ErrOutOfRange, from.Name, to.Bytes, to.Inodes, err)
	default:
		return err
	}
}
