package pool

import (
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// charges counts the bytes that snapshots still charge to the account of their source volume. A
// purge removes them. btrfs with simple quotas charges a block to the volume that wrote it as long
// as any subvolume has the block. A volume that overwrites blocks of its snapshots therefore needs
// a limit that is larger by these bytes; the ledger counts them for the snapshots. Where the
// filesystem charges otherwise, all accounts are empty.
//
// charge and uncharge change an account; applyCharges then sets the filesystem's limit.
type charges struct {
	mu    sync.Mutex
	bytes map[account]int64
}

// account identifies what a filesystem counts blocks under. A quota ID alone is not enough, and a
// quota ID with a volume ID is not enough either: the quota ID of a deleted volume can be given to
// a new volume, even to one of the same name. The zero account belongs to no volume.
type account struct {
	volume  volume.ID
	quotaID volume.QuotaID
	made    catalog.Instant // when the volume was created
}

// accountOfVolume is what the blocks of a volume are counted under.
func accountOfVolume(v volume.Volume) account {
	if v.QuotaID == 0 {
		return account{}
	}
	return account{volume: v.ID, quotaID: v.QuotaID, made: catalog.InstantOf(v.Created)}
}

// accountOf returns the account of a snapshot's source, and the zero account for a volume.
func accountOf(e *catalog.Entry) account {
	if e.SourceQuotaID == 0 {
		return account{}
	}
	source, err := volume.ParseID(e.OwnerID)
	if err != nil {
		return account{}
	}
	return account{volume: source, quotaID: e.SourceQuotaID, made: e.SourceCreated}
}

// charge adds bytes to an account.
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

// uncharge subtracts bytes from an account.
func (c *charges) uncharge(from account, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := c.bytes[from] - bytes; left > 0 {
		c.bytes[from] = left
	} else {
		delete(c.bytes, from)
	}
}

// of returns the bytes that are charged to an account.
func (c *charges) of(a account) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes[a]
}

// limitOf returns the limit that the filesystem gets for a volume: the volume's size and the bytes
// that are charged to its account.
func (p *Pool) limitOf(v volume.Volume) int64 {
	return ledger.Sum(v.CapacityBytes, p.charges.of(accountOfVolume(v)))
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
		if err != nil || !v.entry.IsHeldToSize() || v.QuotaID == 0 {
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

// chargeCutting raises the volume's limit, at most to twice, while its snapshot is made: the bytes
// that the snapshot keeps are known, and charged, only afterwards. After uncharge, applyCharges
// lowers the limit again. After a crash, the next start lowers it.
func (p *Pool) chargeCutting(id volume.ID) (uncharge func(), err error) {
	v, err := p.Get(id)
	if err != nil || !p.cloner.ChargesWriter() {
		return func() {}, err
	}
	to, bytes := accountOfVolume(v.Volume), p.limitOf(v.Volume)
	p.charges.charge(to, bytes)
	uncharge = func() { p.charges.uncharge(to, bytes) }
	if err := p.applyCharges(id); err != nil {
		uncharge()
		return nil, err
	}
	return uncharge, nil
}
