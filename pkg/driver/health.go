package driver

import (
	"fmt"
	"math"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// health is what the health calls need of a pool.
func (p poolStatus) health() health.Pool {
	known := health.Pool{Name: p.config.Name, Pool: p.last}
	if p.err != nil {
		known.Reason = volume.ReasonOf(p.err)
		known.IsOptional = !p.wasOpen && isAbsent(&p.poolSlot, p.err)
	}
	return known
}

// Known implements nodeserver.Pools and controllerserver.Pools.
func (s *poolSet) Known() []health.Pool {
	statuses := s.statuses()
	known := make([]health.Pool, 0, len(statuses))
	for _, p := range statuses {
		known = append(known, p.health())
	}
	return known
}

// Candidates implements nodeserver.Pools and controllerserver.Pools. It asks the disk of the pool
// with that ID only.
func (s *poolSet) Candidates(id volume.PoolID) ([]health.Pool, error) {
	slots, giveBack := s.borrow()
	defer giveBack()
	var doubtful []health.Pool
	for _, slot := range slots {
		switch {
		case slot.last == nil:
			doubtful = append(doubtful, poolStatus{poolSlot: slot, err: slot.err}.health())
		case slot.last.ID() == id:
			return []health.Pool{poolStatus{poolSlot: slot, err: s.check(slot)}.health()}, nil
		}
	}
	for _, p := range doubtful {
		if p.Reason == volume.ReasonOpening {
			return nil, fmt.Errorf("%w: pool %s is being opened, and may be pool %s",
				volume.ErrUnavailable, p.Name, id)
		}
	}
	if len(doubtful) == 0 {
		return nil, noSuchPool(id)
	}
	return doubtful, nil
}

// Use implements nodeserver.Pools.
func (s *poolSet) Use() (end func()) { return sync.OnceFunc(s.calls.enter()) }

// maxPushedUnhealthy bounds the volumes that are pushed of a pool. Their owners are told.
const maxPushedUnhealthy = 100

// describeHealth says which volumes have adverse conditions. No disk is asked.
func describeHealth(described *linkpb.Pool, p poolStatus) {
	if p.last == nil {
		return
	}
	unhealthy := p.last.Unhealthy("", math.MaxInt)
	described.UnhealthyVolumes = int64(len(unhealthy))
	if p.err != nil {
		described.UnhealthyVolumes = int64(p.last.VolumeCount())
	}
	for _, v := range unhealthy[:min(len(unhealthy), maxPushedUnhealthy)] {
		pushed := &linkpb.UnhealthyVolume{Id: v.ID.String()}
		for _, f := range v.Faults {
			pushed.Faults = append(pushed.Faults, string(f))
		}
		described.Unhealthy = append(described.Unhealthy, pushed)
	}
}
