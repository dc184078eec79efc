package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Expand gives a volume at least the size that is required, while pods use it, and returns the
// volume as it is then. A size it has already is success. When it returns the new size, that
// survives a power cut. Errors: ErrNotFound, ErrCorrupt, ErrBusy; ErrOutOfRange when the volume is
// larger than the limit, because it never shrinks; ErrNoSpace, with the volume as it was.
func (p *Pool) Expand(ctx context.Context, id volume.ID, size volume.SizeRange) (Volume, error) {
	l, err := p.lockVolume(id, p.volumes.catalog.Lock)
	if err != nil {
		return Volume{}, err
	}
	defer l.Unlock()
	p.calls.Enter()
	defer p.calls.Leave()
	if size.Contains(l.CapacityBytes) {
		return l.Volume, l.syncUnsynced()
	}
	bytes, err := l.sizeToExpandTo(size)
	if err != nil {
		return Volume{}, fmt.Errorf("volume %s: %w", id, err)
	}
	if err := l.grow(ctx, bytes); err != nil {
		return Volume{}, fmt.Errorf("expand volume %s in %s from %d to %d bytes: %w",
			id, p.nameAndPath(), l.CapacityBytes, bytes, err)
	}
	return p.Get(id)
}

// sizeToExpandTo is the size that the volume gets for a request. Errors: ErrOutOfRange; ErrBusy
// while an image is copied, because the copy is to be of one size.
func (l Locked) sizeToExpandTo(size volume.SizeRange) (int64, error) {
	if l.CapacityBytes > size.Required {
		return 0, fmt.Errorf("%w: it has %d bytes and never shrinks; requested: at most %d",
			volume.ErrOutOfRange, l.CapacityBytes, size.Limit)
	}
	if l.Spec.IsImage() {
		if err := l.CheckUncopied(); err != nil {
			return 0, err
		}
	}
	return l.Spec.Size(size)
}

// grow reserves the bytes, raises the limit, and then writes the record. The start applies the
// record, so after a crash in between the volume has the old size.
func (l Locked) grow(ctx context.Context, bytes int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, more := l.pool, bytes-l.CapacityBytes
	if err := p.reserve(more); err != nil {
		return err
	}
	failpoint.Here("expand.reserved")
	larger := l.Volume.Volume
	larger.CapacityBytes = bytes
	err := l.resize(p.limitOf(larger))
	if err == nil {
		failpoint.Here("expand.resized")
		err = l.writeRecord(larger)
	}
	if err != nil {
		p.ledger.Release(more)
		return errors.Join(err, l.resize(p.limitOf(l.Volume.Volume)))
	}
	// From here on nothing is undone, also when the fsync fails: an image that is shorter than its
	// record says is corrupt.
	return errors.Join(l.commitRecord(larger), p.applyCharges(l.ID))
}

// resize sets the filesystem's limit of the volume.
func (v Volume) resize(bytes int64) error {
	d, err := v.openDir()
	if err != nil {
		return err
	}
	defer d.Close()
	return v.pool.backendOf(v.Spec).Resize(d, v.QuotaID, v.LimitedSpec(), bytes)
}
