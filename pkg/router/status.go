package router

import (
	"cmp"
	"slices"
	"time"
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

// Nodes lists the nodes that are linked, and those that were within a day, by their names.
func (r *Router) Nodes() []NodeStatus {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	nodes := make([]NodeStatus, 0, len(r.fleet.nodes))
	for _, n := range r.fleet.nodes {
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
