package pool

import (
	"maps"
	"slices"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// growthFailures are the volumes whose filesystem could not be grown since the start. The zero
// value has none.
type growthFailures struct {
	mu  sync.Mutex
	ids map[volume.ID]struct{}
}

// AddGrowthFailure says that the filesystem could not be grown to the volume's size. It counts
// until the filesystem has the size, or until the volume is deleted.
func (v Volume) AddGrowthFailure() {
	f := &v.pool.growthFailures
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ids == nil {
		f.ids = make(map[volume.ID]struct{})
	}
	f.ids[v.ID] = struct{}{}
}

// GrowthFailures lists the volumes whose filesystem could not be grown, in the order of their IDs.
func (p *Pool) GrowthFailures() []volume.ID {
	f := &p.growthFailures
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.ids, func(id volume.ID, _ struct{}) bool {
		v, err := p.Get(id)
		return err != nil || v.FilesystemBytes >= v.CapacityBytes
	})
	return slices.SortedFunc(maps.Keys(f.ids), volume.ID.Compare)
}
