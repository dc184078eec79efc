package pool

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

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
	n := len(p.snapshots.catalog.OwnedAfter(source.String(), "", most))
	if n+b.making[source] >= most {
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
