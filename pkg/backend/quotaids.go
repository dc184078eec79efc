package backend

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// maxDraws is how many quota IDs are tried for one volume. While half of the range is free, so many
// draws never fail.
const maxDraws = 1000

// QuotaIDs allocates the quota IDs of one pool, each to one volume. It knows the IDs of the pool's
// own volumes. Only the filesystem knows whether others use an ID.
type QuotaIDs struct {
	first volume.QuotaID
	count uint64

	mu   sync.Mutex
	used map[volume.QuotaID]struct{}
}

// NewQuotaIDs allocates from a range of count quota IDs, from first on; count is a power of two.
// New IDs are random: a pod may charge its files to any project ID, and so must not know its
// neighbours'.
func NewQuotaIDs(first volume.QuotaID, count uint64) *QuotaIDs {
	return &QuotaIDs{first: first, count: count, used: make(map[volume.QuotaID]struct{})}
}

// Contains reports whether a quota ID is in the range.
func (q *QuotaIDs) Contains(id volume.QuotaID) bool {
	return id >= q.first && uint64(id-q.first) < q.count
}

// Allocate returns a quota ID that no volume of the pool has, and of which isFree, which asks the
// filesystem, returns true. Errors: ErrNoSpace if it finds none.
func (q *QuotaIDs) Allocate(isFree func(volume.QuotaID) (bool, error)) (volume.QuotaID, error) {
	for range maxDraws {
		id := q.draw()
		if !q.Reserve(id) {
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
	return 0, fmt.Errorf("%w: of %d quota IDs that were drawn from %d on, each is taken",
		volume.ErrNoSpace, maxDraws, q.first)
}

func (q *QuotaIDs) draw() volume.QuotaID {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	return q.first + volume.QuotaID(binary.NativeEndian.Uint64(random[:])%q.count)
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
