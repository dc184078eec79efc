package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Modify changes what a VolumeAttributesClass says of a volume, while pods use the volume, and
// returns it as it is then. When Modify returns, the change survives a power cut; the limits of a
// device are the caller's to set. Changes that the volume has already are success. Errors:
// ErrNotFound, ErrCorrupt, ErrBusy; ErrInvalid, with the volume as it was, when it cannot have
// them.
func (p *Pool) Modify(
	ctx context.Context, id volume.ID, changes volume.Changes,
) (Volume, error) {
	l, err := p.lockVolume(id, p.volumes.catalog.Lock)
	if err != nil {
		return Volume{}, err
	}
	defer l.Unlock()
	p.calls.Enter()
	defer p.calls.Leave()
	changed := l.Volume.Volume
	changed.Mutable = changes.On(l.Mutable)
	if changed.Mutable == l.Mutable {
		return l.Volume, l.syncUnsynced()
	}
	if err := p.checkMutable(changed); err != nil {
		return Volume{}, fmt.Errorf("volume %s: %w", id, err)
	}
	if err := l.modify(ctx, changed); err != nil {
		return Volume{}, fmt.Errorf("modify volume %s in %s: %w", id, p.nameAndPath(), err)
	}
	return p.Get(id)
}

// checkMutable refuses what the volume can never have. Errors: ErrInvalid.
func (p *Pool) checkMutable(v volume.Volume) error {
	if err := v.Mutable.CheckFits(v.Spec); err != nil {
		return err
	}
	// For CreateVolume that is a lack of room, because another node may be able to. This volume stays.
	if s := v.LimitedSpec(); v.Mutable.Inodes != 0 && !p.canLimitInodes(s) {
		return fmt.Errorf("%w: %s", volume.ErrInvalid, p.inodesRemedy(s))
	}
	return nil
}

// modify sets the filesystem's limit, and then writes the record, as grow does: the start applies
// the record, so after a crash in between the volume has what it had.
func (l Locked) modify(ctx context.Context, changed volume.Volume) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limits := changed.LimitedSpec() != l.LimitedSpec()
	if limits {
		if err := l.limit(changed); err != nil {
			return errors.Join(err, l.limit(l.Volume.Volume))
		}
	}
	failpoint.Here("modify.limited")
	if err := l.writeRecord(changed); err != nil {
		if limits {
			err = errors.Join(err, l.limit(l.Volume.Volume))
		}
		return err
	}
	failpoint.Here("modify.recorded")
	return l.commitRecord(changed)
}

// limit sets the filesystem's limits to those of v, which is the volume with changes.
func (l Locked) limit(v volume.Volume) error {
	return Volume{Volume: v, pool: l.pool, entry: l.entry}.resize(l.pool.limitOf(v))
}
