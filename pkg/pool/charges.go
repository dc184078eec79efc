package pool

import (
	"errors"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// ledger.Accounts counts what snapshots charge to their volumes: Charge and Uncharge change an
// account, and applyCharges then sets the filesystem's limit.

// limitOf returns the limit that the filesystem gets for a volume: the volume's size and the bytes
// that are charged to its account.
func (p *Pool) limitOf(v volume.Volume) int64 {
	return ledger.Sum(v.CapacityBytes, p.accounts.Charged(catalog.AccountOf(v)))
}

// applyCharges sets the filesystem's limit of a volume to limitOf. It calls limitOf again after
// each change of the limit: of two calls at the same time, the one that ends last then sets the
// right limit.
func (p *Pool) applyCharges(id volume.ID) error {
	if !p.cloner.ChargesWriter() || id.Pool() != p.id {
		return nil
	}
	for applied := int64(-1); ; {
		v, err := p.Get(id)
		if err != nil || !v.entry.EnforcesSize() || v.QuotaID == 0 {
			return nil //nolint:nilerr // a deleted or damaged volume has no limit to set
		}
		limit := p.limitOf(v.Volume)
		if limit == applied {
			return nil
		}
		if err := v.resize(limit); err != nil {
			return err
		}
		applied = limit
	}
}

// chargeInAdvance raises the volume's limit, at most to twice, while its snapshot is made: the
// bytes that the snapshot charges to the volume are known only afterwards. After uncharge,
// applyCharges lowers the limit again. After a crash, the next start lowers it.
func (p *Pool) chargeInAdvance(id volume.ID) (uncharge func(), err error) {
	v, err := p.Get(id)
	if err != nil || !p.cloner.ChargesWriter() {
		return func() {}, err
	}
	to, bytes := catalog.AccountOf(v.Volume), p.limitOf(v.Volume)
	p.accounts.Charge(to, bytes)
	uncharge = func() { p.accounts.Uncharge(to, bytes) }
	if err := p.applyCharges(id); err != nil {
		uncharge()
		return nil, err
	}
	return uncharge, nil
}

// uncharger returns a function that subtracts the bytes of a purged snapshot from the account of
// its source; nil for the zero account. Errors: backend.ErrPending while the source is being
// changed.
func (p *Pool) uncharger(from ledger.Account, bytes int64) func() error {
	if from == (ledger.Account{}) {
		return nil
	}
	uncharged := false
	return func() error {
		if uncharged {
			return nil
		}
		unlock, err := p.volumes.catalog.LockShared(from.Volume)
		if err != nil {
			return errors.Join(backend.ErrPending, err)
		}
		defer unlock()
		p.accounts.Uncharge(from, bytes)
		uncharged = true
		return p.applyCharges(from.Volume)
	}
}
