package router

import (
	"context"
	"fmt"
	"iter"
)

// ListedVolume is a volume in the list of a node.
type ListedVolume struct{ ID, Node string }

// IsLinked says whether the node with a topology value has a link to this replica.
func (r *Router) IsLinked(value string) bool {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	n := r.fleet.byValue[value]
	return n != nil && n.link != nil
}

// Volumes lists what the linked nodes have, node by node. Unlike ListVolumes it goes on after a
// node that cannot list its volumes: the sequence has its error.
func (r *Router) Volumes(ctx context.Context) iter.Seq2[ListedVolume, error] {
	return func(yield func(ListedVolume, error) bool) {
		for _, n := range r.linked() {
			if !r.volumesOf(ctx, n, yield) {
				return
			}
		}
	}
}

// linked are the nodes that have a link.
func (r *Router) linked() (nodes []*node) {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	for _, n := range r.fleet.nodes {
		if n.link != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// volumesOf says whether the caller wants more.
func (r *Router) volumesOf(
	ctx context.Context, n *node, yield func(ListedVolume, error) bool,
) (more bool) {
	for token := ""; ; {
		entries, next, err := r.fetchVolumes(ctx, n, token, 0)
		if err != nil {
			return yield(ListedVolume{Node: n.name}, fmt.Errorf("list the volumes of %s: %w", n.name, err))
		}
		for _, e := range entries {
			if !yield(ListedVolume{ID: e.GetVolume().GetVolumeId(), Node: n.name}, nil) {
				return false
			}
		}
		if next == "" || next == token {
			return true
		}
		token = next
	}
}
