package pool

import (
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// charges has what the snapshots of a pool keep, until they are purged, of what the filesystem
// counts for their volumes. btrfs with simple quotas counts a block for the volume that wrote it as
// long as anybody has the block. So a volume that overwrites what is in its snapshots needs a limit
// that is larger by that much; the ledger has these bytes as what the snapshots hold. Where the
// filesystem counts otherwise, all accounts are empty.
//
// charge and uncharge change an account; applyCharges then makes the filesystem's limit agree.
type charges struct {
	mu    sync.Mutex
	bytes map[account]int64
}

// account is what a filesystem counts blocks under. A quota ID alone is not enough, nor is one with
// the volume's ID: a dead volume's quota ID can be given to a new volume, even to one of the same
// name. The zero account is nobody's.
type account struct {
	volume  volume.ID
	quotaID volume.QuotaID
	made    instant // when the volume was made
}

// accountOfVolume is what the blocks of a volume are counted under.
func accountOfVolume(v volume.Volume) account {
	if v.QuotaID == 0 {
		return account{}
	}
	return account{volume: v.ID, quotaID: v.QuotaID, made: instantOf(v.Created)}
}

// accountOf is what the bytes of a snapshot stay charged to; a volume's are charged to nobody else.
func accountOf(e *entry) account {
	if e.Value.sourceQuotaID == 0 {
		return account{}
	}
	source, err := volume.ParseID(e.Of)
	if err != nil {
		return account{}
	}
	return account{volume: source, quotaID: e.Value.sourceQuotaID, made: e.Value.sourceCreated}
}

// charge adds to an account.
func (c *charges) charge(to account, bytes int64) {
	if to == (account{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes == nil {
		c.bytes = make(map[account]int64)
	}
	c.bytes[to] = ledger.Sum(c.bytes[to], bytes)
}

// uncharge takes from an account.
func (c *charges) uncharge(from account, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := c.bytes[from] - bytes; left > 0 {
		c.bytes[from] = left
	} else {
		delete(c.bytes, from)
	}
}

// of is what is charged to an account.
func (c *charges) of(a account) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes[a]
}

// limitOf is what the filesystem is told of a volume's size.
func (p *Pool) limitOf(v volume.Volume) int64 {
	return ledger.Sum(v.CapacityBytes, p.charges.of(accountOfVolume(v)))
}

// applyCharges makes the filesystem's limit of a volume agree with what is charged to the volume.
// limitOf is asked again after each change of the limit, so that of two calls at the same time the
// one that ends last sets what is right.
func (p *Pool) applyCharges(id volume.ID) error {
	if !p.cloner.ChargesWriter() || id.Pool() != p.id {
		return nil
	}
	for applied := int64(-1); ; {
		v, err := p.Volume(id)
		if err != nil || !v.entry.Value.isHeldToSize() || v.QuotaID == 0 {
			return nil //nolint:nilerr // what is gone or damaged has no size to hold
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

// chargeCutting lets a volume overwrite, from the moment of its snapshot on, all that it may have
// written until then: what the snapshot keeps is known, and charged, only afterwards. Until
// uncharge the limit is at most twice what it was. A crash leaves it so until the next start, which
// sets it by the records.
func (p *Pool) chargeCutting(id volume.ID) (uncharge func(), err error) {
	v, err := p.Get(id)
	if err != nil || !p.cloner.ChargesWriter() {
		return func() {}, err
	}
	to, bytes := accountOfVolume(v), p.limitOf(v)
	p.charges.charge(to, bytes)
	uncharge = func() { p.charges.uncharge(to, bytes) }
	if err := p.applyCharges(id); err != nil {
		uncharge()
		return nil, err
	}
	return uncharge, nil
}
