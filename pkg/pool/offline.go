package pool

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

// Offline is a pool that no driver has open. It is locked, so that none opens it meanwhile, and
// nothing in it is read or changed but what is asked for.
type Offline struct{ dir *layout.Dir }

// OpenOffline locks the pool at a path. The caller closes it. Errors: ErrUnavailable while a driver
// has it, or for a newer format; ErrCorrupt; os.ErrNotExist when there is no pool.
func OpenOffline(path string) (*Offline, error) {
	d, err := layout.OpenExisting(path)
	if err != nil {
		return nil, fmt.Errorf("pool at %s: %w", path, err)
	}
	return &Offline{dir: d}, nil
}

// Close lets a driver have the pool.
func (o *Offline) Close() error { return o.dir.Close() }

// ID is the pool's ID.
func (o *Offline) ID() volume.PoolID { return o.dir.ID }

// OpenVolume opens the directory of a volume. The caller closes it. Errors: ErrNotFound; ErrBusy
// for one that is deleted.
func (o *Offline) OpenVolume(id volume.ID) (openat.Dir, error) {
	deleted, err := trash.HasTombstone(o.dir.Volumes, id.Dir())
	if err != nil {
		return openat.Dir{}, err
	}
	if deleted {
		return openat.Dir{}, fmt.Errorf("%w: volume %s is deleted", volume.ErrBusy, id)
	}
	d, err := o.dir.Volumes.OpenUnmounted(id.Dir())
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || id.Pool() != o.dir.ID {
		return openat.Dir{}, fmt.Errorf("%w: volume %s is not in the pool with the ID %s",
			volume.ErrNotFound, id, o.dir.ID)
	}
	return d, err
}

// QuotaID is what the filesystem counts the data of a volume's directory under.
func (o *Offline) QuotaID(ctx context.Context, d openat.Dir) (volume.QuotaID, error) {
	// Quotas stay as they are.
	b, err := detect.Backend(ctx, o.dir.Root, detect.Options{IgnoreQuota: true})
	if err != nil {
		return 0, err
	}
	return b.ReserveQuotaID(d, 0), nil
}

// ReplaceRecord gives a volume's directory another record, durably.
func (*Offline) ReplaceRecord(d openat.Dir, content []byte) error {
	if err := replaceRecord(d, content); err != nil {
		return err
	}
	return d.Sync()
}
