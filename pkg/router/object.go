package router

import (
	"fmt"
	"iter"
	"strings"
	"time"
)

// NodeObject is what the Kubernetes API says of a node.
type NodeObject struct {
	Name string
	// Exists says whether there is a Node object.
	Exists bool
	// HasDriver says whether kubelet has registered the driver there.
	HasDriver bool
	// Cordoned says that no new pods come to the node.
	Cordoned bool
	// Tainted says that only pods come that tolerate a taint.
	Tainted bool
	// NotReadySince is since when the node is not ready; zero if it is.
	NotReadySince time.Time
}

// notReadyFor is how long a node may be not ready before the router chooses it no more: a restart
// of kubelet takes less.
const notReadyFor = time.Minute

// objectsState says what is known of the objects of nodes.
type objectsState int

const (
	objectsUnknown objectsState = iota // nobody says anything of them
	objectsAwaited
	objectsRead
)

// SetNode says what the Kubernetes API has of a node now. A node that has the driver should be
// linked: until it is, lists lack its volumes. A node without an object that is not linked was
// removed for good: lists go on without it.
func (r *Router) SetNode(o NodeObject) {
	f := r.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects[o.Name] = o
	if !o.Exists {
		delete(f.objects, o.Name)
	}
	n := f.nodes[o.Name]
	switch {
	case n != nil:
		n.object = o
		if n.link == nil && !n.pushed && !o.shouldLink() {
			f.remove(n.name)
		}
	case o.shouldLink():
		n = f.add(o.Name)
		n.since, n.why = time.Now(), "it has not linked yet"
		if f.read == objectsAwaited {
			n.since = f.started
		}
	}
}

// shouldLink says whether the driver runs on the node, or is about to.
func (o NodeObject) shouldLink() bool { return o.Exists && o.HasDriver }

// NodesRead says that SetNode has been called for all nodes that the cluster has.
func (r *Router) NodesRead() {
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	r.fleet.read = objectsRead
}

// AllLinked says whether every node that has the driver is linked.
func (r *Router) AllLinked() bool {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	for n := range r.fleet.known() {
		if n.link == nil {
			return false
		}
	}
	return r.fleet.read != objectsAwaited
}

// knows says whether a node is linked or should be. The lock is held.
func (f *fleet) knows(n *node) bool {
	return n.link != nil || n.object.Exists || f.read != objectsRead
}

// known are the nodes that are linked or should be. The lock is held while they are used.
func (f *fleet) known() iter.Seq[*node] {
	return func(yield func(*node) bool) {
		for _, n := range f.nodes {
			if f.knows(n) && !yield(n) {
				return
			}
		}
	}
}

// isOpen says whether the router may choose the node for a volume.
func (o NodeObject) isOpen() bool { return o.closed() == "" }

// closed is why the router may not choose the node; empty: it may.
func (o NodeObject) closed() string {
	switch {
	case o.Cordoned:
		return "cordoned"
	case !o.NotReadySince.IsZero() && time.Since(o.NotReadySince) > notReadyFor:
		return "not ready"
	default:
		return ""
	}
}

// whoIsClosed names nodes that are linked and get no volumes.
func (r *Router) whoIsClosed() string {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	var names []string
	for n := range r.fleet.known() {
		if why := n.object.closed(); why != "" && n.link != nil && len(names) < maxNamed {
			names = append(names, fmt.Sprintf("%s (%s)", n.name, why))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "These get no volumes now: " + strings.Join(names, ", ") + ". "
}
