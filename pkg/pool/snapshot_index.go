package pool

import (
	"strings"
	"sync"

	"github.com/tidwall/btree"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// SnapshotEntry is a snapshot as the index has it. It is a value that never changes. One whose
// record cannot be read keeps its place, so that its name is not given out again: then only the ID
// is known.
type SnapshotEntry struct {
	volume.Snapshot

	// Damaged says what is wrong with the record.
	Damaged error
}

// snapshotIndex has every snapshot of a pool in the order of their directories. It is rebuilt from
// the tree at start.
type snapshotIndex struct {
	claims

	mu      sync.RWMutex
	entries btree.Map[string, SnapshotEntry]
	// bySource has them once more, in the order of their sources.
	bySource btree.Map[string, SnapshotEntry]
	bytes    int64 // held by those of entries
	// kept is what snapshots keep, until they are purged, of what the filesystem counts under a
	// volume's quota ID.
	kept map[charge]int64
}

// charge is what a filesystem counts blocks under. A quota ID alone is not enough, nor is one with
// the volume's ID: a dead volume's can be given to a new one, even to one of the same name.
type charge struct {
	source  volume.ID
	quotaID volume.QuotaID
	born    int64 // when the volume was made, in Unix nanoseconds
}

// keptBy is what the bytes of a snapshot stay charged to.
func keptBy(s volume.Snapshot) charge {
	return charge{
		source:  s.Source,
		quotaID: s.SourceQuotaID,
		born:    s.SourceCreated.UnixNano(),
	}
}

// chargedTo is what the blocks of a volume are charged to.
func chargedTo(v volume.Volume) charge {
	return charge{source: v.ID, quotaID: v.QuotaID, born: v.Created.UnixNano()}
}

func (x *snapshotIndex) get(dirName string) (SnapshotEntry, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.entries.Get(dirName)
}

// put adds a snapshot; what it keeps of its source is for keep to say.
func (x *snapshotIndex) put(e SnapshotEntry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.entries.Set(e.ID.Dir(), e)
	x.bySource.Set(keyOf(e.Snapshot), e)
	x.bytes = ledger.Sum(x.bytes, e.HeldBytes)
}

func (x *snapshotIndex) remove(e SnapshotEntry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.entries.Delete(e.ID.Dir())
	x.bySource.Delete(keyOf(e.Snapshot))
	x.bytes = max(0, x.bytes-e.HeldBytes)
}

// keyOf begins with the source; no directory has a slash.
func keyOf(s volume.Snapshot) string { return s.Source.String() + "/" + s.ID.Dir() }

// keep changes what snapshots keep of what counts under a quota ID; quota ID 0 is nobody's.
func (x *snapshotIndex) keep(on charge, bytes int64) {
	if on.quotaID == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.kept == nil {
		x.kept = make(map[charge]int64)
	}
	sum := ledger.Sum(x.kept[on], bytes)
	if sum <= 0 {
		delete(x.kept, on)
		return
	}
	x.kept[on] = sum
}

func (x *snapshotIndex) keptOf(on charge) int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.kept[on]
}

// counts are the number of snapshots and what they hold in bytes.
func (x *snapshotIndex) counts() (n int, bytes int64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.entries.Len(), x.bytes
}

// after lists at most limit snapshots whose directory is greater than the given one.
func (x *snapshotIndex) after(dirName string, limit int) []SnapshotEntry {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return collect(&x.entries, "", dirName, limit)
}

// ofSourceAfter is after for the snapshots of one volume.
func (x *snapshotIndex) ofSourceAfter(source volume.ID, dirName string, limit int) []SnapshotEntry {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return collect(&x.bySource, source.String()+"/", dirName, limit)
}

// collect lists at most limit entries whose key begins with the prefix and goes on with what is
// greater than after.
func collect(
	entries *btree.Map[string, SnapshotEntry], prefix, after string, limit int,
) []SnapshotEntry {
	var page []SnapshotEntry
	entries.Ascend(prefix+after, func(key string, e SnapshotEntry) bool {
		if len(page) == limit || !strings.HasPrefix(key, prefix) {
			return false
		}
		if key != prefix+after {
			page = append(page, e)
		}
		return true
	})
	return page
}
