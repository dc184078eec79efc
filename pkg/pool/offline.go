package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend/detect"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Offline is a pool that no driver has open. It is locked, so that none opens it meanwhile, and
// nothing in it is read or changed but what is asked for.
type Offline struct {
	id            volume.PoolID
	root, volumes openat.Dir
}

// OpenOffline locks the pool at a path. The caller closes it. Errors: ErrUnavailable while a driver
// has it, or for a newer format; ErrCorrupt; os.ErrNotExist when there is no pool.
func OpenOffline(path string) (_ *Offline, err error) {
	o := &Offline{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("pool at %s: %w", path, err), o.Close())
		}
	}()
	if o.root, err = openat.OpenDir(path); err != nil {
		return nil, err
	}
	m, err := readMarker(o.root)
	if err != nil {
		return nil, err
	}
	if o.id, err = m.ID(); err != nil {
		return nil, err
	}
	if err := lockPool(o.root); err != nil {
		return nil, err
	}
	o.volumes, err = o.root.OpenDir(volumesDir)
	return o, err
}

// Close lets a driver have the pool.
func (o *Offline) Close() error {
	var errs []error
	for _, d := range []openat.Dir{o.volumes, o.root} {
		if d.File != nil {
			errs = append(errs, d.Close())
		}
	}
	return errors.Join(errs...)
}

// ID is the pool's ID.
func (o *Offline) ID() volume.PoolID { return o.id }

// OpenVolume opens the directory of a volume. The caller closes it. Errors: ErrNotFound; ErrBusy
// for one that is deleted.
func (o *Offline) OpenVolume(id volume.ID) (openat.Dir, error) {
	deleted, err := trash.IsMarked(o.volumes, id.Dir())
	if err != nil {
		return openat.Dir{}, err
	}
	if deleted {
		return openat.Dir{}, fmt.Errorf("%w: volume %s is deleted", volume.ErrBusy, id)
	}
	d, err := o.volumes.OpenUnmounted(id.Dir())
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || id.Pool() != o.id {
		return openat.Dir{}, fmt.Errorf("%w: volume %s is not in the pool with the ID %s",
			volume.ErrNotFound, id, o.id)
	}
	return d, err
}

// QuotaID is what the filesystem counts the data of a volume's directory under.
func (o *Offline) QuotaID(ctx context.Context, d openat.Dir) (volume.QuotaID, error) {
	// Quotas stay as they are.
	b, err := detect.Backend(ctx, o.root, detect.Options{IgnoreQuota: true, Pool: o.id})
	if err != nil {
		return 0, err
	}
	return b.ReserveQuotaID(d.File, 0), nil
}

// ReplaceRecord gives a volume's directory another record, durably.
func (*Offline) ReplaceRecord(d openat.Dir, content []byte) error {
	if err := exchangeRecord(d, content); err != nil {
		return err
	}
	return d.Sync()
}
