package router

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// rememberFor is how long the pools of a node that was deleted are known, and a node of which the
// Kubernetes API says nothing.
const rememberFor = 24 * time.Hour

// fleet is what the nodes have pushed. Nothing waits while its lock is held.
type fleet struct {
	logger klog.Logger

	mu      sync.RWMutex
	nodes   map[string]*node // by name
	byValue map[string]*node // by the value of the topology
	// owners has the node of each pool. A node keeps a pool while it is not linked.
	owners map[volume.PoolID]owner
	// refused has the pools that nodes claim although others have them.
	refused map[*poolState]*node
	pruned  time.Time
	seldom  *rate.Limiter // for lines of the log that a node can cause

	turns   *turns
	started time.Time
	objects map[string]NodeObject // by the node's name, of those that exist
	read    objectsState
}

// node is a node that is linked, or was. The fleet's lock guards what is not atomic.
type node struct {
	name string

	link   *link.Link // nil: it is not linked
	client *services
	since  time.Time // when the link was made, or ended
	why    string    // why it ended
	pushed bool      // the state of its pools, ever
	pools  []*poolState
	// references are volumes that are in no pool and have faults, by handle.
	references map[string][]volume.Fault
	object     NodeObject // what the Kubernetes API says of it

	underWay        int // calls; turns has its lock
	calls, failures atomic.Uint64
}

// owner is the node of a pool. Only whoever knows the whole UUID can take the pool over.
type owner struct {
	node *node
	uuid string
}

func newFleet(logger klog.Logger, read objectsState) *fleet {
	return &fleet{
		logger:  logger,
		nodes:   map[string]*node{},
		byValue: map[string]*node{},
		owners:  map[volume.PoolID]owner{},
		refused: map[*poolState]*node{},
		pruned:  time.Now(),
		seldom:  rate.NewLimiter(rate.Every(time.Second), 20),
		turns:   newTurns(),
		started: time.Now(),
		objects: map[string]NodeObject{},
		read:    read,
	}
}

// link enters a new link. The pools of the node stay as they were until it has pushed its state.
func (f *fleet) link(l *link.Link) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[l.Node]
	if n == nil {
		n = f.add(l.Node)
	}
	n.link, n.client, n.since, n.why = l, newServices(l.Conn), l.Since, ""
	return n
}

// add enters a node. The lock is held.
func (f *fleet) add(name string) *node {
	n := &node{name: name, object: f.objects[name]}
	f.nodes[name] = n
	f.byValue[volume.TopologyValue(name)] = n
	return n
}

// remove forgets a node. The lock is held.
func (f *fleet) remove(name string) {
	delete(f.nodes, name)
	delete(f.byValue, volume.TopologyValue(name))
}

// unlink notes that a link has ended, unless the node has a newer one.
func (f *fleet) unlink(l *link.Link, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[l.Node]
	if n == nil || n.link != l {
		return
	}
	n.link, n.client, n.since, n.why = nil, nil, time.Now(), why.Error()
	f.reassess()
	f.prune()
}

// isNewest says whether the node has no newer link, and this one has not ended.
func (f *fleet) isNewest(n *node, l *link.Link) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return n.link == l
}

// prune forgets nodes that have not been linked for long, now and then.
func (f *fleet) prune() {
	if time.Since(f.pruned) < time.Hour {
		return
	}
	f.pruned = time.Now()
	for name, n := range f.nodes {
		if n.link != nil || n.object.shouldLink() || time.Since(n.since) < rememberFor {
			continue
		}
		f.remove(name)
		maps.DeleteFunc(f.owners, func(_ volume.PoolID, o owner) bool { return o.node == n })
	}
}

// update takes the state that a node has pushed on its newest link.
func (f *fleet) update(n *node, l *link.Link, state *linkpb.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.link != l {
		return
	}
	n.pushed = true
	before := n.pools
	maps.DeleteFunc(f.refused, func(_ *poolState, by *node) bool { return by == n })
	n.pools, n.references = nil, newReferences(state.GetReferences())
	for _, pushed := range state.GetPools()[:min(len(state.GetPools()), maxPools)] {
		n.pools = append(n.pools, newPool(pushed, before))
	}
	for _, p := range n.pools {
		f.claim(n, p, before)
	}
	f.reassess()
}

// claim gives a pool to the node that pushes it, unless another one has it.
func (f *fleet) claim(n *node, p *poolState, before []*poolState) {
	if p.id == "" {
		return
	}
	had, owned := f.owners[p.id]
	switch {
	case !owned, had.node == n:
		f.owners[p.id] = owner{n, p.uuid}
	case had.node.holds(p.id) || had.uuid != p.uuid:
		f.refused[p], p.refused = n, true
		known := func(b *poolState) bool { return b.refused && b.id == p.id }
		if !slices.ContainsFunc(before, known) && f.seldom.Allow() {
			f.logger.Error(nil, "A node claims a pool that another node has: it gets no calls for it. "+
				"Is one a copy of the other's disk?", "node", n.name, "pool", p.name,
				"poolID", p.id, "owner", had.node.name)
		}
	default:
		f.owners[p.id] = owner{n, p.uuid}
		f.logger.Info("A pool has moved", "pool", p.name, "poolID", p.id, "from", had.node.name,
			"to", n.name)
	}
}

// reassess gives refused pools to their nodes if the others no longer have them.
func (f *fleet) reassess() {
	for p, n := range f.refused {
		had := f.owners[p.id]
		if n.link == nil || had.node.holds(p.id) || had.uuid != p.uuid {
			continue
		}
		delete(f.refused, p)
		p.refused = false
		f.claim(n, p, nil)
	}
}

// holds says whether the node is linked and can use the pool. The fleet's lock is held.
func (n *node) holds(id volume.PoolID) bool {
	return n.link != nil && slices.ContainsFunc(n.pools, func(p *poolState) bool {
		return p.id == id && p.isReady()
	})
}

// ownerOf is the node of a pool; nil if none is known.
func (f *fleet) ownerOf(id volume.PoolID) *node {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.owners[id].node
}

// ofTopology is the node with that value of the topology; nil if none is known.
func (f *fleet) ofTopology(value string) *node {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.byValue[value]
}

// anyLinked is a node that is linked; nil if there is none.
func (f *fleet) anyLinked() *node {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, n := range f.nodes {
		if n.link != nil {
			return n
		}
	}
	return nil
}

// unlinked lists the nodes that are not linked, by their names.
func (f *fleet) unlinked() (nodes []*node) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for n := range f.known() {
		if n.link == nil {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	return nodes
}
