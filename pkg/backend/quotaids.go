package backend

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// QuotaIDs gives out the quota IDs of one pool, each to one volume. It knows those that the pool's
// own volumes have; whether anybody else of the filesystem has one, the filesystem must say.
type QuotaIDs struct {
	first volume.QuotaID
	count uint64

	mu   sync.Mutex
	used map[volume.QuotaID]struct{}
	next volume.QuotaID
}

// NewQuotaIDs gives out count quota IDs from first on. The seed says where the search for a free
// one begins: two pools of one filesystem begin apart.
func NewQuotaIDs(first volume.QuotaID, count, seed uint64) *QuotaIDs {
	return &QuotaIDs{
		first: first,
		count: count,
		used:  make(map[volume.QuotaID]struct{}),
		next:  first + volume.QuotaID(seed%count),
	}
}

// Contains says whether a quota ID is one that could have been given out.
func (t *QuotaIDs) Contains(id volume.QuotaID) bool {
	return id >= t.first && uint64(id-t.first) < t.count
}

// Claim finds a quota ID that no volume of the pool has, and that the filesystem says is free.
// Errors: ErrNoSpace when there is none.
func (t *QuotaIDs) Claim(isFree func(volume.QuotaID) (bool, error)) (volume.QuotaID, error) {
	for range t.count {
		id, ok := t.advance()
		if !ok {
			continue
		}
		free, err := isFree(id)
		if free && err == nil {
			return id, nil
		}
		t.Free(id)
		if err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: every quota ID from %d on is taken", volume.ErrNoSpace, t.first)
}

// advance takes the next quota ID unless it is used.
func (t *QuotaIDs) advance() (volume.QuotaID, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := t.next
	t.next = t.first + volume.QuotaID(uint64(t.next-t.first+1)%t.count)
	if _, taken := t.used[id]; taken {
		return 0, false
	}
	t.used[id] = struct{}{}
	return id, true
}

// Hold takes one quota ID; false if a volume has it already, or it could not have been given out.
func (t *QuotaIDs) Hold(id volume.QuotaID) bool {
	if !t.Contains(id) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, taken := t.used[id]
	t.used[id] = struct{}{}
	return !taken
}

// Free lets a quota ID be given out again.
func (t *QuotaIDs) Free(id volume.QuotaID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.used, id)
}
