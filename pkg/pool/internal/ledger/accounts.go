package ledger

import (
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Account identifies what a filesystem counts blocks under. A quota ID alone is not enough, and a
// quota ID with a volume ID is not enough either: the quota ID of a deleted volume can be given to
// a new volume, even to one of the same name. The zero Account belongs to no volume.
type Account struct {
	Volume  volume.ID
	QuotaID volume.QuotaID
	Created int64 // when the volume was created, in Unix nanoseconds
}

// Accounts counts the bytes that snapshots still charge to the account of their source volume,
// until the snapshots are purged. btrfs with simple quotas charges a block to the volume that wrote
// it as long as any subvolume has the block. A volume that overwrites blocks of its snapshots
// therefore needs a limit that is larger by these bytes; the ledger counts them for the snapshots.
// Where the filesystem charges otherwise, all accounts are empty. The zero value is ready; its
// methods may be called concurrently.
type Accounts struct {
	mu    sync.Mutex
	bytes map[Account]int64
}

// Charge adds bytes to an account. It does nothing for the zero Account.
func (a *Accounts) Charge(to Account, bytes int64) {
	if to == (Account{}) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bytes == nil {
		a.bytes = make(map[Account]int64)
	}
	a.bytes[to] = Sum(a.bytes[to], bytes)
}

// Uncharge subtracts bytes from an account.
func (a *Accounts) Uncharge(from Account, bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if left := a.bytes[from] - bytes; left > 0 {
		a.bytes[from] = left
	} else {
		delete(a.bytes, from)
	}
}

// Charged returns the bytes that are charged to an account.
func (a *Accounts) Charged(to Account) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bytes[to]
}
