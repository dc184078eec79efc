package router

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// unlimited is the capacity of a class that names a path of the host: nothing of it is counted.
	unlimited = math.MaxInt64
	// patience is how long a node that is not linked keeps the room that it had: a restart of its
	// driver, or of the controller, changes no capacity in the cluster.
	patience = time.Minute
)

// The steps of the room that is reported, in bytes.
const (
	minStep = 1 << 20
	maxStep = 4 << 30
)

// granularity is the step of a pool: about a 256th of its size, and a power of two.
func granularity(size int64) int64 {
	part := uint64(max(1, size)) / 256
	return min(maxStep, max(minStep, int64(1)<<max(0, bits.Len64(part)-1)))
}

// report rounds the pushed room down, and changes what is reported only when that is too much or
// two steps too little: what others write to the disk must not be written to the API server each
// minute.
func (p *poolState) report(step int64) {
	if p.available < p.reported || p.available >= p.reported+2*step {
		p.reported = p.available / step * step
	}
}

// GetCapacity says how large the next volume of a class may be on a node, from what the nodes have
// pushed: nothing, where the node does not have the class's pool, or not the class's access modes.
// Errors: ErrNotLinked, for a node that may still come.
func (r *Router) GetCapacity(
	_ context.Context, req *csi.GetCapacityRequest,
) (*csi.GetCapacityResponse, error) {
	class, err := request.ParseCapacity(req)
	if err != nil {
		return nil, err
	}
	where := req.GetAccessibleTopology()
	if len(where.GetSegments()) == 0 {
		return r.capacityOfAll(class), nil
	}
	largest, err := r.capacityOf(class, where)
	if err != nil {
		return nil, err
	}
	return request.CapacityMessage(class.Spec, largest, largest), nil
}

// capacityOf is the capacity of a class on one node.
func (r *Router) capacityOf(class request.Capacity, where *csi.Topology) (int64, error) {
	value, ok := r.valueOf(where)
	if !ok {
		return 0, nil
	}
	n, err := r.nodeOf(value)
	if err != nil {
		if time.Since(r.started) < patience {
			return 0, err
		}
		return 0, nil // the scheduler is to look elsewhere
	}
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	if n.isStarting(class) {
		return 0, fmt.Errorf("%w: %s has not said yet what room it has: retry", volume.ErrNotLinked,
			n.name)
	}
	return n.capacity(class), nil
}

// isStarting says whether a node is to be linked soon for the first time, or was linked just now
// and has not opened its pool yet. The fleet's lock is held.
func (n *node) isStarting(class request.Capacity) bool {
	switch {
	case time.Since(n.since) > patience:
		return false
	case n.link == nil:
		return !n.pushed
	case class.Params.Path != "":
		return false
	}
	p := n.poolOf(class.Params.Pool)
	return !n.pushed || p != nil && p.notReady == string(volume.ReasonOpening)
}

// capacityOfAll is that of a class on all nodes together.
func (r *Router) capacityOfAll(class request.Capacity) *csi.GetCapacityResponse {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	var sum, largest int64
	for _, n := range r.fleet.nodes {
		c := n.capacity(class)
		largest = max(largest, c)
		sum += min(c, unlimited-sum)
	}
	return request.CapacityMessage(class.Spec, sum, largest)
}

// capacity is the size of the largest volume of a class. The fleet's lock is held.
func (n *node) capacity(class request.Capacity) int64 {
	switch p := n.poolOf(class.Params.Pool); {
	case n.link == nil && time.Since(n.since) > patience:
		return 0
	case class.Params.Path != "":
		return unlimited
	case p == nil:
		return 0
	default:
		return p.largest(class, p.reported)
	}
}

// valueOf is the node in a topology; false for a topology that no node of the driver has.
func (r *Router) valueOf(t *csi.Topology) (value string, ok bool) {
	value, ok = t.GetSegments()[volume.TopologyKey(r.opts.DriverName)]
	return value, ok && len(t.GetSegments()) == 1
}
