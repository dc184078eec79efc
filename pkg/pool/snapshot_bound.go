package pool

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// snapshotOwnBytes is what a snapshot takes of a disk whatever it holds: its directory, its
	// record and the root of its data have a block each.
	snapshotOwnBytes = 3 * 4096
	// inodeBytes is the size of an inode: 256 bytes on ext4, 512 on XFS, more on btrfs.
	inodeBytes = 512
)

// heldAtLeast returns the bytes that the ledger counts for a snapshot that holds that many bytes of
// blocks and that many inodes of its own: many empty files, or many empty snapshots, fill a disk
// too.
func heldAtLeast(bytes, inodes int64) int64 {
	return max(bytes, snapshotOwnBytes+inodes*inodeBytes)
}

// snapshotBound keeps the snapshots of each volume from becoming more than the options let them be.
type snapshotBound struct {
	mu sync.Mutex
	// making counts the snapshots that are not in the catalog yet, by source.
	making map[volume.ID]int
}

// boundSnapshots makes room for one more snapshot of a volume, until release is called: by then the
// snapshot is in the catalog, or has failed. Errors: ErrTooMany.
func (p *Pool) boundSnapshots(source volume.ID) (release func(), err error) {
	most := p.opts.MaxSnapshotsPerVolume
	if most == 0 {
		return func() {}, nil
	}
	b := &p.snapshotBound
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(p.snapshots.catalog.OfAfter(source.String(), "", most)); n+b.making[source] >= most {
		return nil, fmt.Errorf(
			"%w: volume %s has %d snapshots, and %d are being made; pool %s allows %d for a volume "+
				"(maxSnapshotsPerVolume): delete one first",
			volume.ErrTooMany, source, n, b.making[source], p.opts.Name, most)
	}
	if b.making == nil {
		b.making = make(map[volume.ID]int)
	}
	b.making[source]++
	return func() { b.release(source) }, nil
}

func (b *snapshotBound) release(source volume.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.making[source]--; b.making[source] <= 0 {
		delete(b.making, source)
	}
}
