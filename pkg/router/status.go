package router

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// NodeStatus is what the router knows of a node.
type NodeStatus struct {
	Name string
	// Linked says whether the node has a link, and Since since when it has one, or has none.
	Linked bool
	Since  time.Time
	// Why is why the last link ended.
	Why string
	// DriverVersion is the version of the node's driver. Empty without a link.
	DriverVersion string
	// Pushed says whether the node has sent the state of its pools.
	Pushed bool
	// NotReady has the pools that get no volumes.
	NotReady []PoolStatus
}

// PoolStatus is a pool that cannot be used, and why.
type PoolStatus struct {
	Name     string
	Optional bool
	Reason   string
}

// PoolDetails are what the router knows of a pool that can be used.
type PoolDetails struct {
	// Name is the pool's in the configuration of its node.
	Name, Node string
	// EnforcesSizes says whether a directory of the pool cannot grow beyond its volume's size.
	EnforcesSizes bool
}

// NodeDetails are what the router knows of a node and its pools.
type NodeDetails struct {
	NodeStatus

	// Conn is the node's link; nil: it has none.
	Conn grpc.ClientConnInterface
	// Pools are those that the node has pushed last.
	Pools []PushedPool
}

// PushedPool is a pool as its node has pushed it. Sizes are in bytes.
type PushedPool struct {
	Name string
	// ID is empty while the pool has not been open.
	ID                  volume.PoolID
	IsDefault, Optional bool
	// NotReady is why the pool cannot be used; empty: it can.
	NotReady string
	// Foreign: another node has the pool, and this one gets no calls for it.
	Foreign                              bool
	EnforcesSizes                        bool
	SizeBytes, AvailableBytes            int64
	Volumes, Snapshots, UnhealthyVolumes int64
}

// Details are those of all nodes that are linked or should be, by their names. The cost grows with
// the number of nodes; none is asked.
func (r *Router) Details() []NodeDetails {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	nodes := make([]NodeDetails, 0, len(r.fleet.nodes))
	for n := range r.fleet.known() {
		d := NodeDetails{NodeStatus: n.status()}
		if n.link != nil {
			d.Conn = n.link.Conn
		}
		for _, p := range n.pools {
			pushed := p.pushed()
			if p.id != "" && r.fleet.owners[p.id].node != n {
				pushed.Foreign, pushed.NotReady = true, "another node has this pool"
			}
			d.Pools = append(d.Pools, pushed)
		}
		nodes = append(nodes, d)
	}
	slices.SortFunc(nodes, func(a, b NodeDetails) int { return cmp.Compare(a.Name, b.Name) })
	return nodes
}

func (p *poolState) pushed() PushedPool {
	return PushedPool{
		Name: p.name, ID: p.id, IsDefault: p.isDefault, Optional: p.optional, NotReady: p.notReady,
		EnforcesSizes: p.enforcesSizes, SizeBytes: p.size, AvailableBytes: p.available,
		Volumes: p.volumes, Snapshots: p.snapshots, UnhealthyVolumes: p.unhealthyVolumes,
	}
}

// Pool is the pool with an ID, if its node is linked and can use it.
func (r *Router) Pool(id volume.PoolID) (details PoolDetails, usable bool) {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	n := r.fleet.owners[id].node
	if n == nil || n.link == nil {
		return PoolDetails{}, false
	}
	for _, p := range n.pools {
		if p.id == id && p.isReady() {
			return PoolDetails{Name: p.name, Node: n.name, EnforcesSizes: p.enforcesSizes}, true
		}
	}
	return PoolDetails{}, false
}

// Nodes lists the nodes that are linked, and those that should be, by their names.
func (r *Router) Nodes() []NodeStatus {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	nodes := make([]NodeStatus, 0, len(r.fleet.nodes))
	for n := range r.fleet.known() {
		nodes = append(nodes, n.status())
	}
	slices.SortFunc(nodes, func(a, b NodeStatus) int { return cmp.Compare(a.Name, b.Name) })
	return nodes
}

// status is of a node; the fleet's lock is held.
func (n *node) status() NodeStatus {
	s := NodeStatus{Name: n.name, Since: n.since, Why: n.why, Pushed: n.pushed}
	if n.link == nil {
		return s
	}
	s.Linked, s.DriverVersion = true, n.link.DriverVersion
	for _, p := range n.pools {
		switch {
		case p.refused:
			s.NotReady = append(s.NotReady, PoolStatus{p.name, p.optional, "another node has this pool"})
		case p.notReady != "":
			s.NotReady = append(s.NotReady, PoolStatus{p.name, p.optional, p.notReady})
		}
	}
	return s
}
