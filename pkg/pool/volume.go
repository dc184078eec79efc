package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/fsgroup"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Volume is a volume of an open pool: its value, as one look-up has found it, and what can be done
// with it. A call looks the volume up once and passes the Volume on. Later changes by other calls
// are not visible in it. What changes the volume needs its lock; see Locked.
type Volume struct {
	volume.Volume

	pool  *Pool
	entry *catalog.Entry
}

// Get finds a volume. The owner is set only for an inline volume; for other volumes only the record
// has the owner. Errors: ErrNotFound; ErrCorrupt when the volume is there and its record cannot be
// used: then only ID and QuotaID are known.
func (p *Pool) Get(id volume.ID) (Volume, error) {
	e, err := p.volumes.find(id)
	if e == nil {
		return Volume{}, err
	}
	return Volume{Volume: p.volumes.unpack(e), pool: p, entry: e}, err
}

// PoolName is what the configuration calls the volume's pool.
func (v Volume) PoolName() string { return v.pool.opts.Name }

// EnforcesSize says that the volume cannot grow beyond its size: the filesystem counts what it
// holds.
func (v Volume) EnforcesSize() bool { return v.entry.EnforcesSize() }

// Data is an O_PATH descriptor of what the volume's pods see, or of the image that it is in: to
// bind-mount, never to read. The caller closes it. Errors: ErrCorrupt when record and data
// disagree.
func (v Volume) Data() (*os.File, error) {
	f, err := v.pool.AnyData(v.ID)
	if errors.Is(err, volume.ErrNotFound) {
		return nil, fmt.Errorf("%w: volume %s has a record and no %s",
			volume.ErrCorrupt, v.ID, backend.Data)
	}
	if err != nil {
		return nil, err
	}
	if err := checkFileType(f, v.Spec); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: data of volume %s: %w", volume.ErrCorrupt, v.ID, err),
			f.Close())
	}
	return f, nil
}

// Usage returns the volume's usage; data is the open data of the volume. It costs a few system
// calls, whatever the volume holds. On a filesystem without quotas, the numbers are those of the
// whole filesystem, because those limit the writer. If the volume is full, the pool finds out
// afterwards whether others' files fill it.
func (v Volume) Usage(data *os.File) (volume.Usage, error) {
	u, err := v.pool.backendOf(v.Spec).Usage(data, v.QuotaID)
	if err == nil && !v.Spec.IsImage() {
		v.pool.audits.note(v, data, u)
	}
	return u, err
}

// SetGroup lets a group read and write the volume; data is what its pod is to see. Errors: those of
// fsgroup.Set.
func (v Volume) SetGroup(ctx context.Context, data *os.File, group volume.Group) error {
	return v.pool.groups.Set(ctx, fsgroup.Request{
		ID: v.ID, Data: data, Group: group,
		// Uncopied: a copy reads the root's group last, and could have the new one with the content of
		// before.
		Lock: func() (unlock func(), err error) {
			l, err := v.LockUncopied()
			return l.unlock, err
		},
	})
}

// StopSetGroup ends what SetGroup does after its call, and waits until it has ended: it has the
// volume open. Errors: ErrBusy.
func (p *Pool) StopSetGroup(ctx context.Context, id volume.ID) error {
	return p.groups.Stop(ctx, id)
}
