package router

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// maxMessage bounds the message of a node's status, in bytes.
const maxMessage = 16 << 10

// maxNamed is how many nodes a message names.
const maxNamed = 10

// services are the services of a node that the router calls.
type services struct {
	csi.ControllerClient
	csi.GroupControllerClient
}

func newServices(conn grpc.ClientConnInterface) *services {
	return &services{csi.NewControllerClient(conn), csi.NewGroupControllerClient(conn)}
}

// method is a call of one of the services, C.
type method[C, Q, A any] func(C, context.Context, Q, ...grpc.CallOption) (A, error)

// call makes a call to a node, with the caller's deadline and request ID. What the node answers
// goes through as it is. Errors: ErrNotLinked, ErrNodeBusy; the status of the node; the
// context's.
func call[C, Q, A any](
	ctx context.Context, r *Router, n *node, name string, do method[C, Q, A], req Q,
) (answer A, err error) {
	client, err := r.clientOf(n)
	if err != nil {
		return answer, err
	}
	service, ok := any(client).(C)
	if !ok {
		return answer, fmt.Errorf("%T is no service of a node", service)
	}
	if err := r.fleet.turns.begin(ctx, n); err != nil {
		return answer, err
	}
	defer r.fleet.turns.end(n)
	start := time.Now()
	answer, err = do(service, rpc.SendRequestID(ctx), req)
	r.metrics.seconds.WithLabelValues(name).Observe(time.Since(start).Seconds())
	n.calls.Add(1)
	if err != nil {
		n.failures.Add(1)
		klog.FromContext(ctx).Info("The node has answered with an error", "node", n.name) // rpc logs it
	}
	return answer, bounded(err)
}

// bounded cuts the message of a status that no node of ours sends.
func bounded(err error) error {
	s := status.Convert(err)
	if len(s.Message()) <= maxMessage {
		return err
	}
	return status.Error(s.Code(), volume.Clip(s.Message(), maxMessage))
}

// clientOf calls a node on its newest link. Errors: ErrNotLinked.
func (r *Router) clientOf(n *node) (*services, error) {
	r.fleet.mu.RLock()
	defer r.fleet.mu.RUnlock()
	if n.client == nil {
		return nil, r.notLinked(n)
	}
	return n.client, nil
}

// notLinked says since when, and what to look at. The fleet's lock is held.
func (r *Router) notLinked(n *node) error {
	if !r.fleet.knows(n) {
		return fmt.Errorf("%w: %s was deleted: it has no Node object, and no link to the controller "+
			"since %s (%s)", volume.ErrNotLinked, n.name, stamp(n.since), n.why)
	}
	return fmt.Errorf("%w: %s has had no link to the controller since %s (%s): look at its pod: %s",
		volume.ErrNotLinked, n.name, stamp(n.since), n.why, r.podsOf(n.name))
}

// nodeOf is the node with that value of the topology. Errors: ErrNotLinked.
func (r *Router) nodeOf(value string) (*node, error) {
	if n := r.fleet.ofTopology(value); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("%w: %s has had no link to the controller since it started at %s: look "+
		"at its pod: %s", volume.ErrNotLinked, value, stamp(r.started), r.podsOf(value))
}

// ownerOf is the node of a pool. A pool that no node has had may be on one that has not been linked
// yet, so nothing is said about what is in it. Errors: ErrNotLinked.
func (r *Router) ownerOf(id volume.PoolID) (*node, error) {
	if n := r.fleet.ownerOf(id); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("%w: no node that has been linked since %s has the pool %s. Is its disk "+
		"mounted, and is its node linked? %s", volume.ErrNotLinked, stamp(r.started), id,
		r.whoIsNot())
}

// anyNode answers what every node answers alike. Errors: ErrNotLinked.
func (r *Router) anyNode() (*node, error) {
	if n := r.fleet.anyLinked(); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("%w: no node is linked to the controller: look at the driver's pods: %s",
		volume.ErrNotLinked, r.pods())
}

// whoIsNot names nodes that are not linked, and what to look at.
func (r *Router) whoIsNot() string {
	nodes := r.fleet.unlinked()
	var names []string
	for _, n := range nodes[:min(len(nodes), maxNamed)] {
		names = append(names, n.name)
	}
	switch {
	case len(nodes) == 0:
		return "Look at the driver's pods: " + r.pods()
	case len(nodes) > maxNamed:
		names = append(names, fmt.Sprintf("and %d more", len(nodes)-maxNamed))
	}
	return fmt.Sprintf("Not linked: %s. Look at the driver's pods: %s", strings.Join(names, ", "),
		r.pods())
}

func (r *Router) pods() string {
	if r.opts.Namespace == "" {
		return "kubectl get pods -A -o wide"
	}
	return fmt.Sprintf("kubectl -n %s get pods -o wide", r.opts.Namespace)
}

func (r *Router) podsOf(node string) string {
	return r.pods() + " --field-selector spec.nodeName=" + node
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
