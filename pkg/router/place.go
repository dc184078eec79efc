package router

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// choice is the node on which a volume is made.
type choice struct {
	node *node
	// end says that the call has ended, and how.
	end func(err error)
}

func certain(n *node) choice { return choice{node: n, end: func(error) {}} }

// place finds the node for a new volume: the source's, else the one that the topology names, else
// one that the router chooses. Errors: ErrElsewhere, ErrNotLinked, ErrAPI; those of
// request.ParseCreate.
func (r *Router) place(ctx context.Context, req *csi.CreateVolumeRequest) (choice, error) {
	source, err := request.ParseSource(req.GetVolumeContentSource())
	if err != nil {
		return choice{}, err
	}
	where := r.parseTopology(req.GetAccessibilityRequirements())
	if !source.IsNone() {
		n, err := r.withSource(source, where)
		return certain(n), err
	}
	if value, one := where.only(); one {
		n, err := r.nodeOf(value)
		return certain(n), err
	}
	return r.choose(ctx, req, where)
}

// withSource is the node of a source. Errors: ErrElsewhere when the volume is to be on another one.
func (r *Router) withSource(source volume.Source, where topology) (*node, error) {
	n, err := r.ownerOf(source.Pool())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	if !where.has(n) {
		return nil, fmt.Errorf("%w, %s: %s is on node %s, and is copied only there. With a class of "+
			"Immediate binding the volume is made there; with WaitForFirstConsumer the scheduler has "+
			"to choose that node for the pod", volume.ErrElsewhere, where, source, n.name)
	}
	return n, nil
}

// topology is where a volume may be, as values of the topology.
type topology struct {
	any bool
	// values are in the order of preference, the first preferred ones before the others.
	values    []string
	preferred int
}

// parseTopology reads what the caller asks for. Nodes that are preferred and not allowed are left
// out (CSI spec, TopologyRequirement).
func (r *Router) parseTopology(requirement *csi.TopologyRequirement) topology {
	allowed, anywhere := r.valuesOf(requirement.GetRequisite())
	preferred, _ := r.valuesOf(requirement.GetPreferred())
	where := topology{any: anywhere || len(requirement.GetRequisite()) == 0}
	left := map[string]bool{}
	for _, value := range allowed {
		left[value] = true
	}
	for _, value := range preferred {
		if where.any || left[value] {
			where.values = append(where.values, value)
			delete(left, value)
		}
	}
	where.preferred = len(where.values)
	for _, value := range allowed {
		if left[value] {
			where.values = append(where.values, value)
			delete(left, value)
		}
	}
	return where
}

// valuesOf are the values of topologies that nodes of the driver have; anywhere says that one of
// the topologies restricts nothing.
func (r *Router) valuesOf(topologies []*csi.Topology) (values []string, anywhere bool) {
	for _, t := range topologies {
		if value, ok := r.valueOf(t); ok {
			values = append(values, value)
		}
		anywhere = anywhere || len(t.GetSegments()) == 0
	}
	return values, anywhere
}

// only is the node if the caller leaves no choice.
func (t topology) only() (value string, one bool) {
	if t.any || len(t.values) != 1 {
		return "", false
	}
	return t.values[0], true
}

func (t topology) has(n *node) bool {
	return t.any || slices.Contains(t.values, volume.TopologyValue(n.name))
}

func (t topology) String() string {
	if len(t.values) > maxNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(t.values[:maxNamed], ", "),
			len(t.values)-maxNamed)
	}
	return strings.Join(t.values, ", ")
}

// choose takes one of several nodes, and has it recorded before anything is made there: the same
// call, repeated after a crash, must not make a second volume on another node.
func (r *Router) choose(
	ctx context.Context, req *csi.CreateVolumeRequest, where topology,
) (choice, error) {
	create, err := request.ParseCreate(req)
	if err != nil {
		return choice{}, err
	}
	w := wanted{where: where, name: req.GetName(), class: create.Class(), size: create.Volume.Size}
	if _, err := w.class.Spec.Size(w.size); err != nil {
		return choice{}, err
	}
	rec := r.recorderFor(create)
	if name, known := rec.known(); known {
		return r.recorded(rec, name, where)
	}
	c := r.pick(w)
	if c.node == nil {
		return choice{}, r.nowhere(w)
	}
	name, err := rec.record(ctx, c.node.name)
	if err != nil {
		r.release(c, err)
		return choice{}, fmt.Errorf("%w: record that volume %s is made on node %s: %w", volume.ErrAPI,
			w.name, c.node.name, err)
	}
	if name != c.node.name {
		r.release(c, errNotHere)
		return r.recorded(rec, name, where)
	}
	return choice{c.node, func(err error) {
		r.release(c, err)
		rec.ended(err)
	}}, nil
}

// errNotHere: a volume is made on another node than the one that was picked.
var errNotHere = errors.New("made on another node")

// recorded is the node on which the volume may have been made. Errors: ErrNotLinked, ErrElsewhere.
func (r *Router) recorded(rec volumeRecord, name string, where topology) (choice, error) {
	n, err := r.nodeOf(volume.TopologyValue(name))
	switch {
	case err != nil:
		return choice{}, err
	case !where.has(n):
		return choice{}, fmt.Errorf("%w, %s: the volume has been made on node %s, or was to be",
			volume.ErrElsewhere, where, n.name)
	default:
		return choice{n, rec.ended}, nil
	}
}

// wanted is a volume for which a node is chosen.
type wanted struct {
	where topology
	name  string
	class request.Capacity
	size  volume.SizeRange
}

// candidate is a node on which the volume could be made.
type candidate struct {
	node *node
	pool *poolState // nil for a path of the host
	// bytes is what the volume would take there: in some pools an image, in others a directory.
	bytes int64
	fits  bool
	// tainted: only pods that tolerate the node's taints can use the volume.
	tainted bool
	room    int64
	tie     uint64
}

// pick chooses a node and counts the volume there. Without a node that has room it takes the one
// with most, which answers in its own words. There is no node if no linked one can use the class's
// pool. A node that the caller prefers was chosen by the scheduler, which knows what the pod
// tolerates.
func (r *Router) pick(w wanted) candidate {
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	for _, value := range w.where.values[:w.where.preferred] {
		if c, ok := w.candidate(r.fleet.byValue[value]); ok && c.fits {
			return c.take()
		}
	}
	var best candidate
	for n := range r.fleet.within(w.where) {
		c, ok := w.candidate(n)
		if ok && n.object.isOpen() && (best.node == nil || c.isBetter(best, r.opts.Placement)) {
			best = c
		}
	}
	return best.take()
}

// within are the nodes of a topology.
func (f *fleet) within(where topology) iter.Seq[*node] {
	if where.any {
		return maps.Values(f.nodes)
	}
	return func(yield func(*node) bool) {
		for _, value := range where.values {
			if n := f.byValue[value]; n != nil && !yield(n) {
				return
			}
		}
	}
}

// candidate says whether a node could have the volume, and how well it fits.
func (w wanted) candidate(n *node) (c candidate, ok bool) {
	if n == nil || n.link == nil {
		return candidate{}, false
	}
	c = candidate{node: n, fits: true, tainted: n.object.Tainted, tie: tieOf(w.name, n.name)}
	if w.class.Params.Path != "" {
		return c, true
	}
	if c.pool = n.poolOf(w.class.Params.Pool); c.pool == nil || !c.pool.isReady() {
		return candidate{}, false
	}
	c.room = c.pool.largest(w.class, c.pool.room())
	bytes, err := w.class.Spec.DecideFor(c.pool).Size(w.size)
	c.bytes, c.fits = bytes, err == nil && c.room >= bytes && c.room > 0
	return c, true
}

// tieOf orders nodes that are as good as each other, for each volume in another way, and in every
// replica in the same.
func tieOf(name, node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name + "\x00" + node))
	return h.Sum64()
}

func (c candidate) isBetter(other candidate, by Placement) bool {
	switch {
	case c.fits != other.fits:
		return c.fits
	case c.tainted != other.tainted:
		return other.tainted
	case c.room == other.room:
		return c.tie > other.tie
	case c.fits && by == Pack:
		return c.room < other.room
	default:
		return c.room > other.room
	}
}

// take counts the volume. The fleet's lock is held.
func (c candidate) take() candidate {
	if c.pool != nil {
		c.pool.placed.coming += c.bytes
	}
	return c
}

// release takes back what take has counted, when the call has ended so.
func (r *Router) release(c candidate, err error) {
	if c.pool == nil {
		return
	}
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	placed := c.pool.placed
	placed.coming -= c.bytes
	if err == nil {
		placed.arrived += c.bytes
		placed.last = time.Now()
	}
}

// nowhere says why no node could be picked. Errors: ErrNotLinked, ErrUnavailable.
func (r *Router) nowhere(w wanted) error {
	if _, err := r.anyNode(); err != nil {
		return err
	}
	of := "a default pool"
	if w.class.Params.Pool != "" {
		of = fmt.Sprintf("a pool %q", w.class.Params.Pool)
	}
	return fmt.Errorf("%w: no linked node has %s that can be used now. %s%s", volume.ErrUnavailable,
		of, r.whoIsClosed(), r.whoIsNot())
}
