package backend

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// QuotaIDs allocates the quota IDs of one pool, each to one volume. It knows the IDs of the pool's
// own volumes. Only the filesystem knows whether others use an ID.
type QuotaIDs struct {
	first volume.QuotaID
	count uint64

	mu   sync.Mutex
	used map[volume.QuotaID]struct{}
	next volume.QuotaID
}

// NewQuotaIDs allocates from a range of count quota IDs, from first on. The search for a free ID
// starts at a place in the range that seed gives, so that two pools of a filesystem start apart.
func NewQuotaIDs(first volume.QuotaID, count, seed uint64) *QuotaIDs {
	return &QuotaIDs{
		first: first,
		count: count,
		used:  make(map[volume.QuotaID]struct{}),
		next:  first + volume.QuotaID(seed%count),
	}
}

// Contains reports whether a quota ID is in the range.
func (q *QuotaIDs) Contains(id volume.QuotaID) bool {
	return id >= q.first && uint64(id-q.first) < q.count
}

// Allocate returns a quota ID that no volume of the pool has, and of which isFree, which asks the
// filesystem, returns true. Errors: ErrNoSpace if there is none.
func (q *QuotaIDs) Allocate(isFree func(volume.QuotaID) (bool, error)) (volume.QuotaID, error) {
	for range q.count {
		id, ok := q.advance()
		if !ok {
			continue
		}
		free, err := isFree(id)
		if free && err == nil {
			return id, nil
		}
		q.Free(id)
		if err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: every quota ID from %d on is taken", volume.ErrNoSpace, q.first)
}

// advance takes the next quota ID; false if a volume has it.
func (q *QuotaIDs) advance() (volume.QuotaID, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	id := q.next
	q.next = q.first + volume.QuotaID(uint64(q.next-q.first+1)%q.count)
	if _, taken := q.used[id]; taken {
		return 0, false
	}
	q.used[id] = struct{}{}
	return id, true
}

// Reserve takes one quota ID; false if a volume has it already, or if it is not in the range.
func (q *QuotaIDs) Reserve(id volume.QuotaID) bool {
	if !q.Contains(id) {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, taken := q.used[id]
	q.used[id] = struct{}{}
	return !taken
}

// Free makes a quota ID available again.
func (q *QuotaIDs) Free(id volume.QuotaID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.used, id)
}
