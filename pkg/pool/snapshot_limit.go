package pool

import (
	"fmt"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// unfinishedSnapshots counts the snapshots of each volume that are not in the catalog yet.
type unfinishedSnapshots struct {
	mu       sync.Mutex
	bySource map[volume.ID]int
}

// admitSnapshot refuses a snapshot if its volume has as many snapshots as the options allow. The
// admitted one counts until done is called: by then the snapshot is in the catalog, or has failed.
// Errors: ErrTooMany.
func (p *Pool) admitSnapshot(source volume.ID) (done func(), err error) {
	most := p.opts.MaxSnapshotsPerVolume
	if most == 0 {
		return func() {}, nil
	}
	u := &p.unfinished
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(p.snapshots.catalog.OwnedAfter(source.String(), "", most))
	if n+u.bySource[source] >= most {
		return nil, fmt.Errorf(
			"%w: volume %s has %d snapshots, and %d unfinished ones; pool %s allows %d for a volume "+
				"(maxSnapshotsPerVolume): delete one first",
			volume.ErrTooMany, source, n, u.bySource[source], p.opts.Name, most)
	}
	if u.bySource == nil {
		u.bySource = make(map[volume.ID]int)
	}
	u.bySource[source]++
	return func() { u.remove(source) }, nil
}

func (u *unfinishedSnapshots) remove(source volume.ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bySource[source]--; u.bySource[source] <= 0 {
		delete(u.bySource, source)
	}
}
