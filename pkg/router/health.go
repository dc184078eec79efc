package router

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// What is kept of what a node says of health; nodes of ours say no more (pkg/health, pkg/driver).
const (
	maxUnhealthy     = 100
	maxFaults        = 16
	maxHealthMessage = 1024
)

// UnhealthyVolume is a volume with faults, as its node has pushed it.
type UnhealthyVolume struct {
	ID     volume.ID
	Faults []volume.Fault
}

// PoolHealth is what a linked node has pushed of the health of a pool.
type PoolHealth struct {
	Node, Name string
	ID         volume.PoolID
	// NotReady is why the pool cannot be used; empty: it can.
	NotReady volume.Reason
	// Unhealthy are volumes with faults of their own, not all of them if they are many.
	Unhealthy []UnhealthyVolume
}

// newUnhealthy reads which volumes of a pool a node has pushed.
func newUnhealthy(pool volume.PoolID, pushed []*linkpb.UnhealthyVolume) (all []UnhealthyVolume) {
	for _, p := range pushed[:min(len(pushed), maxUnhealthy)] {
		id, err := volume.ParseID(p.GetId())
		if err != nil || id.Pool() != pool {
			continue
		}
		all = append(all, UnhealthyVolume{ID: id, Faults: newFaults(p.GetFaults())})
	}
	return all
}

func newFaults(pushed []string) (faults []volume.Fault) {
	for _, f := range pushed[:min(len(pushed), maxFaults)] {
		faults = append(faults, volume.Fault(clip(f)))
	}
	return faults
}

// newReferences reads which volumes that are in no pool a node has pushed. It must not speak of
// volumes of pools here: another node may have the pool.
func newReferences(pushed []*linkpb.UnhealthyVolume) map[string][]volume.Fault {
	references := make(map[string][]volume.Fault)
	for _, p := range pushed[:min(len(pushed), maxUnhealthy)] {
		if handle := p.GetId(); volume.CheckHandle(handle) == nil && !volume.IsID(handle) {
			references[handle] = newFaults(p.GetFaults())
		}
	}
	return references
}

// References are the volumes that are in no pool and have faults, by handle, of each linked node by
// its name. The caller does not change them.
func (r *Router) References() map[string]map[string][]volume.Fault {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	all := make(map[string]map[string][]volume.Fault)
	for _, n := range r.fleet.nodes {
		if n.link != nil && n.pushed {
			all[n.name] = n.references
		}
	}
	return all
}

// Health lists the pools of all linked nodes that have been open, from what the nodes have pushed.
func (r *Router) Health() (all []PoolHealth) {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	for _, n := range r.fleet.nodes {
		if n.link == nil {
			continue
		}
		for _, p := range n.pools {
			if p.id != "" && r.fleet.owners[p.id].node == n {
				all = append(all, PoolHealth{n.name, p.name, p.id, volume.Reason(p.notReady), p.unhealthy})
			}
		}
	}
	return all
}

// ControllerGetVolumeHealth asks the volume's node.
func (r *Router) ControllerGetVolumeHealth(
	ctx context.Context, req *csi.ControllerGetVolumeHealthRequest,
) (*csi.ControllerGetVolumeHealthResponse, error) {
	n, err := r.nodeOfVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	resp, err := call(ctx, r, n, "ControllerGetVolumeHealth",
		csi.ControllerClient.ControllerGetVolumeHealth, req)
	if err != nil {
		return nil, err
	}
	if about := resp.GetVolumeHealth().GetVolumeId(); about != req.GetVolumeId() {
		return nil, fmt.Errorf("node %s has answered with the health of %q", n.name, clip(about))
	}
	boundHealth(resp.GetVolumeHealth())
	return resp, nil
}

// boundHealth cuts what no node of ours sends.
func boundHealth(h *csi.VolumeHealth) {
	h.HealthStatuses = h.GetHealthStatuses()[:min(len(h.GetHealthStatuses()), maxFaults)]
	for _, e := range h.GetHealthStatuses() {
		e.Reason = clip(e.GetReason())
		e.Message = volume.Clip(e.GetMessage(), maxHealthMessage-len("…"))
	}
}

// ControllerListVolumeHealth lists the volumes with adverse conditions of all nodes. Only nodes
// that have pushed that they have some are asked. Errors: ErrNotLinked and ErrUnavailable, when
// volumes would be missing of which adverse conditions were known (CSI spec, VolumeHealthEntry:
// they "should only be removed from reporting when the corresponding health problem is no longer
// happening").
func (r *Router) ControllerListVolumeHealth(
	ctx context.Context, req *csi.ControllerListVolumeHealthRequest,
) (*csi.ControllerListVolumeHealthResponse, error) {
	if err := checkMaxEntries(req.GetMaxEntries()); err != nil {
		return nil, err
	}
	if token := req.GetStartingToken(); token != "" && !volume.IsID(token) {
		return nil, fmt.Errorf("%w: %q is no token of this driver", volume.ErrBadToken, token)
	}
	l := lister[*csi.VolumeHealth]{
		pools: r.unhealthyPools,
		fetch: r.fetchHealth,
		idOf:  (*csi.VolumeHealth).GetVolumeId,
	}
	entries, next, err := l.page(ctx, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerListVolumeHealthResponse{Entries: entries, NextToken: next}, nil
}

func (r *Router) fetchHealth(
	ctx context.Context, n *node, token string, limit int32,
) ([]*csi.VolumeHealth, string, error) {
	resp, err := call(ctx, r, n, "ControllerListVolumeHealth",
		csi.ControllerClient.ControllerListVolumeHealth,
		&csi.ControllerListVolumeHealthRequest{StartingToken: token, MaxEntries: limit})
	for _, h := range resp.GetEntries() {
		boundHealth(h)
	}
	return resp.GetEntries(), resp.GetNextToken(), err
}

// unhealthyPools are the pools with unhealthy volumes in which a list goes on after a token.
// Errors: ErrNotLinked, ErrUnavailable.
func (r *Router) unhealthyPools(token string) (pools []listed, err error) {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	if r.fleet.read == objectsAwaited {
		return nil, errNodesNotRead
	}
	byID := map[volume.PoolID]listed{}
	for n := range r.fleet.known() {
		if err := r.knowsHealth(n); err != nil {
			return nil, err
		}
		for _, p := range n.pools {
			if p.unhealthyVolumes > 0 && r.fleet.owners[p.id].node == n && p.id >= poolIn(token) {
				byID[p.id] = listed{p.id, n, p.unhealthyVolumes}
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		pools = append(pools, byID[id])
	}
	return pools, nil
}

// knowsHealth says whether the health of a node's volumes is known. Unlike isComplete it goes on
// without a node that is not linked and had no unhealthy volumes. The fleet's lock is held.
func (r *Router) knowsHealth(n *node) error {
	if !n.pushed {
		return r.isComplete(n)
	}
	for _, p := range n.pools {
		switch {
		case p.id != "" && r.fleet.owners[p.id].node != n: // another node has it
		case n.link == nil && p.unhealthyVolumes > 0:
			return r.notLinked(n)
		case n.link != nil && p.uuid == "" && p.notReady != "" && !p.optional:
			return fmt.Errorf("%w: pool %s of node %s has not been open since the start of its driver (%s), "+
				"so the health of its volumes is not known", volume.ErrUnavailable, p.name, n.name, p.notReady)
		}
	}
	return nil
}
