package main

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
	"github.com/csi-hostpath/csi-hostpath/pkg/lifecycle"
	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// leaseOf is the name of the Lease that makes one of several controllers the leader. The chart lets
// the controller write it.
func leaseOf(driverName string) string {
	return controllerName + "-" + strings.ReplaceAll(driverName, ".", "-")
}

// leadership is what this process does as the leader; empty while another one leads.
type leadership struct {
	leading atomic.Pointer[lifecycle.Controller]
}

// status is a line of /statusz.
func (l *leadership) status() string {
	if l.leading.Load() != nil {
		return "this replica is the leader: it places claims and follows nodes\n"
	}
	return "this replica is not the leader\n"
}

// object is what the leader knows of the object of a volume. Another replica knows nothing.
func (l *leadership) object(id string) (o lifecycle.VolumeObject, exists, known bool) {
	if c := l.leading.Load(); c != nil {
		return c.VolumeObject(id)
	}
	return o, false, false
}

// metric says who leads. The driver's name is a label of it, because an alert asks for the metric's
// absence.
func (l *leadership) metric(driverName string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "csi_hostpath_controller_leader",
		Help:        "1 while this replica is the leader, else 0.",
		ConstLabels: prometheus.Labels{"driver": driverName},
	}, func() float64 {
		if l.leading.Load() != nil {
			return 1
		}
		return 0
	})
}

// follow follows the life of claims and nodes whenever this process is the leader, until the
// context ends. The options need no client.
func (l *leadership) follow(
	ctx context.Context, o *kubeOptions, registry prometheus.Registerer, options lifecycle.Options,
) (err error) {
	if options.Client, err = kube.NewClient(o.client("lifecycle")); err != nil {
		return err
	}
	if options.Dynamic, err = kube.NewDynamicClient(o.client("lifecycle")); err != nil {
		return err
	}
	// Of its own: claims that come all at once must not hold up the renewal of the lease.
	election, err := kube.NewClient(o.client("election"))
	if err != nil {
		return err
	}
	name, err := o.holder()
	if err != nil {
		return err
	}
	options.Metrics = lifecycle.NewMetrics()
	registry.MustRegister(options.Metrics, l.metric(options.DriverName))
	var stop func()
	options.Component, options.Snapshots = controllerName, o.snapshots
	options.Recorder, stop = kube.NewEventRecorder(ctx, options.Client, controllerName)
	defer stop()
	lease := kube.Lease{Namespace: o.namespace, Name: leaseOf(options.DriverName), Identity: name}
	return kube.RunAsLeader(ctx, election, lease, func(ctx context.Context) error {
		c, err := lifecycle.New(options)
		if err != nil {
			return fmt.Errorf("follow claims and nodes: %w", err)
		}
		l.leading.Store(c)
		defer l.leading.Store(nil)
		c.Run(ctx)
		return nil
	})
}

// linkedNodes are those that are linked to the router.
type linkedNodes struct{ router *router.Router }

// OfPool implements lifecycle.Nodes.
func (n linkedNodes) OfPool(pool volume.PoolID) (string, bool) { return n.router.NodeOf(pool) }

// Pool implements lifecycle.Nodes.
func (n linkedNodes) Pool(id volume.PoolID) (lifecycle.Pool, bool) {
	p, usable := n.router.Pool(id)
	return lifecycle.Pool{Name: p.Name, Node: p.Node, EnforcesSizes: p.EnforcesSizes}, usable
}

// IsLinked implements lifecycle.Nodes.
func (n linkedNodes) IsLinked(value string) bool { return n.router.IsLinked(value) }

// Unlinked implements lifecycle.Nodes.
func (n linkedNodes) Unlinked() (names []string) {
	for _, s := range n.router.Nodes() {
		if !s.Linked {
			names = append(names, s.Name)
		}
	}
	return names
}

// Volumes implements lifecycle.Nodes.
func (n linkedNodes) Volumes(ctx context.Context) iter.Seq2[lifecycle.Volume, error] {
	return func(yield func(lifecycle.Volume, error) bool) {
		for v, err := range n.router.Volumes(ctx) {
			if !yield(lifecycle.Volume{ID: v.ID, Node: v.Node}, err) {
				return
			}
		}
	}
}

// References implements lifecycle.Nodes.
func (n linkedNodes) References() map[string]map[string][]volume.Fault {
	return n.router.References()
}

// Health implements lifecycle.Nodes.
func (n linkedNodes) Health() (all []lifecycle.PoolHealth) {
	for _, p := range n.router.Health() {
		pool := lifecycle.PoolHealth{Name: p.Name, ID: p.ID, NotReady: p.NotReady}
		for _, v := range p.Unhealthy {
			if pool.Faults == nil {
				pool.Faults = map[string][]volume.Fault{}
			}
			pool.Faults[v.ID.String()] = v.Faults
		}
		all = append(all, pool)
	}
	return all
}
