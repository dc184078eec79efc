package repair

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend/detect"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Pool is a pool that no driver has open. It is locked, so that no driver opens it meanwhile.
// Nothing in it is read or changed but what the methods say.
type Pool struct{ dir *layout.Dir }

// OpenPool locks the pool at a path. The caller closes it. Errors: ErrUnavailable while a driver
// has it, or for a newer format; ErrCorrupt; os.ErrNotExist when there is no pool.
func OpenPool(path string) (*Pool, error) {
	d, err := layout.OpenExisting(path)
	if err != nil {
		return nil, fmt.Errorf("pool at %s: %w", path, err)
	}
	return &Pool{dir: d}, nil
}

// Close lets a driver have the pool.
func (p *Pool) Close() error { return p.dir.Close() }

// openVolume opens the directory of a volume. The caller closes it. Errors: ErrNotFound; ErrBusy
// for one that is deleted.
func (p *Pool) openVolume(id volume.ID) (openat.Dir, error) {
	deleted, err := trash.HasTombstone(p.dir.Volumes, id.Dir())
	if err != nil {
		return openat.Dir{}, err
	}
	if deleted {
		return openat.Dir{}, fmt.Errorf("%w: volume %s is deleted", volume.ErrBusy, id)
	}
	d, err := p.dir.Volumes.OpenUnmounted(id.Dir())
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || id.Pool() != p.dir.ID {
		return openat.Dir{}, fmt.Errorf("%w: volume %s is not in the pool with the ID %s",
			volume.ErrNotFound, id, p.dir.ID)
	}
	return d, err
}

// quotaID returns the quota ID under which the filesystem counts the data of a volume's directory.
func (p *Pool) quotaID(ctx context.Context, d openat.Dir) (volume.QuotaID, error) {
	// Quotas stay as they are.
	b, err := detect.Backend(ctx, p.dir.Root, detect.Options{IgnoreQuota: true})
	if err != nil {
		return 0, err
	}
	return b.ReserveQuotaID(d, 0), nil
}
