package pool

import (
	"slices"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// foundFaults are the faults of volumes that have been found since the start. Few volumes have any,
// so nothing is kept of the others. The zero value has none.
type foundFaults struct {
	mu    sync.Mutex
	byDir map[string]faulty // by the volume's directory
}

// faulty is a volume with faults.
type faulty struct {
	// created distinguishes the volume from another one that has its directory later.
	created time.Time
	faults  []volume.Fault
}

func (f *foundFaults) add(v volume.Volume, fault volume.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byDir == nil {
		f.byDir = make(map[string]faulty)
	}
	known := f.byDir[v.ID.Dir()]
	if !known.created.Equal(v.Created) {
		known = faulty{created: v.Created}
	}
	if !slices.Contains(known.faults, fault) {
		known.faults = append(slices.Clone(known.faults), fault)
	}
	f.byDir[v.ID.Dir()] = known
}

func (f *foundFaults) remove(v volume.Volume, fault volume.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, ok := f.byDir[v.ID.Dir()]
	if !ok {
		return
	}
	known.faults = slices.DeleteFunc(slices.Clone(known.faults),
		func(k volume.Fault) bool { return k == fault })
	f.byDir[v.ID.Dir()] = known
	if len(known.faults) == 0 {
		delete(f.byDir, v.ID.Dir())
	}
}

// of returns the faults that have been found of a volume.
func (f *foundFaults) of(v volume.Volume) []volume.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.byDir[v.ID.Dir()]; known.created.Equal(v.Created) {
		return known.faults
	}
	return nil
}

// dirs lists the directories of the volumes with faults, in no order. It forgets volumes that are
// gone.
func (f *foundFaults) dirs(c *catalog.Catalog) (dirs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for dir := range f.byDir {
		if _, ok := c.Get(dir); !ok {
			delete(f.byDir, dir)
			continue
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

// AddFault says that a fault of the volume was found. It counts until RemoveFault, until the
// volume's record contradicts it, or until the volume is deleted. It is not kept over a restart.
func (v Volume) AddFault(f volume.Fault) { v.pool.found.add(v.Volume, f) }

// RemoveFault says that the volume does not have that fault. It is cheap for a volume without
// faults.
func (v Volume) RemoveFault(f volume.Fault) { v.pool.found.remove(v.Volume, f) }

// Unhealthy is a volume with its faults.
type Unhealthy struct {
	ID     volume.ID
	Faults []volume.Fault
}

// Faults lists what is known to be wrong with a volume, from memory: no disk is asked. It may also
// be called when the pool is closed. Errors: ErrNotFound.
func (p *Pool) Faults(id volume.ID) ([]volume.Fault, error) {
	e, err := p.volumes.find(id)
	if e == nil {
		return nil, err
	}
	return p.faultsOf(e), nil
}

// Unhealthy lists at most limit volumes that have faults, in the order of their IDs, after that
// directory, from memory as Faults. The cost grows with the number of volumes that have faults.
func (p *Pool) Unhealthy(afterDir string, limit int) (page []Unhealthy) {
	dirs := p.found.dirs(p.volumes.catalog)
	for _, id := range p.audits.overcharged() {
		dirs = append(dirs, id.Dir())
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if len(page) >= limit {
			break
		}
		e, ok := p.volumes.catalog.Get(dir)
		if !ok || dir <= afterDir {
			continue
		}
		if faults := p.faultsOf(e); len(faults) > 0 {
			page = append(page, Unhealthy{p.volumes.unpack(e).ID, faults})
		}
	}
	return page
}

// VolumeCount is the number of volumes, from memory as Faults.
func (p *Pool) VolumeCount() int { return p.volumes.catalog.Len() }

func (p *Pool) faultsOf(e *catalog.Entry) (faults []volume.Fault) {
	v := p.volumes.unpack(e)
	for _, f := range p.found.of(v) {
		if stillHas(e, v, f) {
			faults = append(faults, f)
		}
	}
	if p.audits.isOvercharged(v.ID) {
		faults = append(faults, volume.FaultOvercharged)
	}
	return faults
}

// stillHas compares a fault with the volume as it is now.
func stillHas(e *catalog.Entry, v volume.Volume, f volume.Fault) bool {
	switch f {
	case volume.FaultRecordDamaged:
		return e.Damaged() != nil
	case volume.FaultSizeNotEnforced:
		return !e.EnforcesSize()
	case volume.FaultGrowthFailed:
		return v.FilesystemBytes < v.CapacityBytes
	default:
		return true
	}
}

// countFaults counts the volumes with each fault. It has every fault of volume.PoolFaults.
func (p *Pool) countFaults() map[volume.Fault]int {
	counts := map[volume.Fault]int{}
	for _, f := range volume.PoolFaults() {
		counts[f] = 0
	}
	for _, v := range p.Unhealthy("", p.volumes.catalog.Len()) {
		for _, f := range v.Faults {
			counts[f]++
		}
	}
	return counts
}

// GrowthFailures lists the volumes whose filesystem could not be grown to their size, in the order
// of their IDs.
func (p *Pool) GrowthFailures() (ids []volume.ID) {
	for _, v := range p.Unhealthy("", p.volumes.catalog.Len()) {
		if slices.Contains(v.Faults, volume.FaultGrowthFailed) {
			ids = append(ids, v.ID)
		}
	}
	return ids
}
