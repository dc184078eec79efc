package pool

import (
	"errors"
	"fmt"
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Volume is a volume of an open pool, as one look-up has found it. It is a value: a call looks the
// volume up once and passes the Volume on. Later changes by other calls are not visible in it. The
// methods that change the volume look it up again under its lock.
type Volume struct {
	volume.Volume

	pool  *Pool
	entry *catalog.Entry
}

// Volume finds a volume. Errors: ErrNotFound; ErrCorrupt when the volume is there and its record
// cannot be used.
func (p *Pool) Volume(id volume.ID) (Volume, error) {
	e, err := p.volumes.find(id)
	if err != nil {
		return Volume{}, err
	}
	return Volume{Volume: p.volumes.unpack(e), pool: p, entry: e}, nil
}

// PoolName is what the configuration calls the volume's pool.
func (v Volume) PoolName() string { return v.pool.opts.Name }

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
	if err := checkKind(f, v.Spec); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: data of volume %s: %w", volume.ErrCorrupt, v.ID, err),
			f.Close())
	}
	return f, nil
}

// Usage returns the volume's usage; data is the open data of the volume. It costs a few system
// calls, whatever the volume holds. On a filesystem without quotas, the numbers are those of the
// whole filesystem, because those limit the writer.
func (v Volume) Usage(data *os.File) (volume.Usage, error) {
	return v.pool.backendOf(v.Spec).Usage(data, v.QuotaID)
}
