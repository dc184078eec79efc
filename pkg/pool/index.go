package pool

import (
	"sync"

	"github.com/tidwall/btree"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// entry is a volume as the index has it. A volume whose record cannot be read keeps its place, so
// that its name is not given out again; damaged says why.
type entry struct {
	volume  volume.Volume
	damaged error
	// unenforced: the volume can grow beyond its size.
	unenforced bool
	// unsettled: the record on the disk says the same, and an fsync of that has failed.
	unsettled bool
}

// index has every volume of a pool in the order of their directories. It is rebuilt from the tree
// at start: what is on disk is the truth.
type index struct {
	claims

	mu      sync.RWMutex
	entries btree.Map[string, *entry]
	// inline has the directories of the volumes that live with a pod.
	inline map[string]struct{}
	// unenforced counts the entries that are.
	unenforced int
}

func (x *index) get(dirName string) (*entry, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.entries.Get(dirName)
}

func (x *index) put(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old, _ := x.entries.Set(e.volume.ID.Dir(), e)
	x.unenforced += countUnenforced(e) - countUnenforced(old)
	if e.volume.IsInline() {
		if x.inline == nil {
			x.inline = make(map[string]struct{})
		}
		x.inline[e.volume.ID.Dir()] = struct{}{}
	}
}

func (x *index) remove(dirName string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old, _ := x.entries.Delete(dirName)
	x.unenforced -= countUnenforced(old)
	delete(x.inline, dirName)
}

func countUnenforced(e *entry) int {
	if e != nil && e.unenforced {
		return 1
	}
	return 0
}

func (x *index) unenforcedLen() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.unenforced
}

// inlineVolumes lists the volumes that live with a pod, in no order.
func (x *index) inlineVolumes() []volume.Volume {
	x.mu.RLock()
	defer x.mu.RUnlock()
	volumes := make([]volume.Volume, 0, len(x.inline))
	for dirName := range x.inline {
		if e, ok := x.entries.Get(dirName); ok {
			volumes = append(volumes, e.volume)
		}
	}
	return volumes
}

func (x *index) len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.entries.Len()
}

// after lists at most limit volumes whose directory is greater than the given one.
func (x *index) after(dirName string, limit int) []volume.Volume {
	return x.pageOf(dirName, limit, func(*entry) bool { return true })
}

// held is after for the volumes that are held to their sizes.
func (x *index) held(afterDir string, limit int) []volume.Volume {
	return x.pageOf(afterDir, limit, func(e *entry) bool { return e.damaged == nil && !e.unenforced })
}

func (x *index) pageOf(afterDir string, limit int, wanted func(*entry) bool) []volume.Volume {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var page []volume.Volume
	x.entries.Ascend(afterDir, func(name string, e *entry) bool {
		if len(page) == limit {
			return false
		}
		if name != afterDir && wanted(e) {
			page = append(page, e.volume)
		}
		return true
	})
	return page
}
