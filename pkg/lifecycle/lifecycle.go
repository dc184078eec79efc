// Package lifecycle does with the objects of the Kubernetes API what neither a node nor upstream's
// sidecars can: it places claims that have a source, tells their owners what keeps claims and pods
// waiting and what is wrong with volumes, and does what is left to do when a node was deleted.
//
// Rights that it needs in the whole cluster:
//
//	persistentvolumeclaims   list, watch, patch (of annotations selected-node only)
//	                         delete (with NodeGoneAfter)
//	persistentvolumes        list, watch
//	                         get, patch, delete (with NodeGoneAfter)
//	nodes                    list, watch
//	csinodes                 list, watch (NodeObjects)
//	pods                     list, watch (only those without a node)
//	storageclasses           list, watch
//	volumesnapshots          get
//	volumesnapshotcontents   get
//	                         list, watch (with Snapshots)
//	                         patch (with Snapshots and NodeGoneAfter)
//	events                   list, watch (only failures of claims), create, patch
package lifecycle

import (
	"context"
	"iter"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Nodes says where pools are now.
type Nodes interface {
	// OfPool is the name of the node that has the pool, if that is known.
	OfPool(pool volume.PoolID) (node string, ok bool)
	// Pool is the pool with an ID, if its node is linked and can use it.
	Pool(id volume.PoolID) (pool Pool, usable bool)
	// IsLinked says whether the node with a topology value is linked now.
	IsLinked(value string) bool
	// Unlinked are the names of the nodes that were linked within a day, and are not now.
	Unlinked() []string
	// Volumes are the IDs of the volumes of a node that is linked. What is not linked, or cannot be
	// read, is left out. Errors: those of the calls.
	Volumes(ctx context.Context) iter.Seq2[Volume, error]
	// Health is what linked nodes have pushed of the health of their pools.
	Health() []PoolHealth
	// References is what linked nodes have pushed of volumes that are in no pool: their faults, by the
	// node's name and the volume's ID. A volume may be on several nodes.
	References() map[string]map[string][]volume.Fault
}

// Volume is a volume as its node has it.
type Volume struct{ ID, Node string }

// Pool is a pool as its node has it.
type Pool struct {
	Name, Node string
	// EnforcesSizes says whether a directory of the pool cannot grow beyond its volume's size.
	EnforcesSizes bool
}

// Options say for which driver, and with what, a Controller works. Client, Dynamic, Recorder,
// Component and DriverName must be set.
type Options struct {
	Client kubernetes.Interface
	// Dynamic reads snapshots, which a cluster need not have.
	Dynamic  dynamic.Interface
	Recorder record.EventRecorder
	// Component is who sends events, as the Recorder has it.
	Component  string
	DriverName string
	// Nodes is what linked nodes say. nil in node deployment: then persistent volumes and the labels
	// of snapshots say on which node a pool is.
	Nodes Nodes
	// NodeObjects runs already, and has the Node objects. Default: they are watched for this.
	NodeObjects *NodeObjects
	// NodeGoneAfter is how long a Node object must have been missing before anything is done about its
	// volumes. 0: nothing is, but for the metrics. It needs Nodes.
	NodeGoneAfter time.Duration
	// Snapshots says that the cluster has the snapshot API.
	Snapshots bool
	// Metrics count what is done. Default: metrics that nobody reads.
	Metrics *Metrics
}

// Controller must run once in the cluster for each driver: whoever runs it is its elected leader.
type Controller struct {
	cluster   *cluster
	placer    *placer
	waiting   *waiting
	sizes     *sizes     // nil: nothing says which pools enforce sizes
	gone      *goneNodes // nil as sizes
	orphans   *orphans   // nil as sizes
	unhealthy *unhealthy // nil as orphans
	links     *unlinked  // nil as sizes
	metrics   *Metrics

	contents   *contents   // nil: the cluster has no snapshots
	unlabelled *unlabelled // nil: as contents, or in the central deployment
}

// New starts nothing.
func New(o Options) (*Controller, error) {
	cluster, err := newCluster(o.Client, o.DriverName, o.NodeObjects)
	if err != nil {
		return nil, err
	}
	m := o.Metrics
	if m == nil {
		m = NewMetrics()
	}
	p, err := newPlacer(o, cluster, m)
	if err != nil {
		return nil, err
	}
	w, err := newWaiting(o, cluster)
	if err != nil {
		return nil, err
	}
	made := &Controller{cluster: cluster, placer: p, waiting: w, metrics: m}
	if o.Snapshots && (o.Nodes == nil || o.NodeGoneAfter > 0) {
		if made.contents, err = newContents(o); err != nil {
			return nil, err
		}
	}
	if o.Nodes == nil {
		if made.contents != nil {
			made.unlabelled = &unlabelled{options: o, cluster: cluster, contents: made.contents}
		}
		return made, nil
	}
	if made.sizes, err = newSizes(o, cluster); err != nil {
		return nil, err
	}
	made.unhealthy = &unhealthy{
		cluster: cluster, nodes: o.Nodes, recorder: o.Recorder,
		sent:       map[volume.PoolID]map[string]string{},
		references: map[string]map[string][]volume.Fault{}, sentReferences: map[string]string{},
	}
	made.links = &unlinked{cluster: cluster, nodes: o.Nodes, metrics: m}
	made.gone = &goneNodes{
		client: o.Client, cluster: cluster, recorder: o.Recorder, nodes: o.Nodes,
		contents: made.contents, driverName: o.DriverName, after: o.NodeGoneAfter, metrics: m,
	}
	made.orphans = &orphans{
		cluster: cluster, nodes: o.Nodes, metrics: m,
		soon: suspectInterval(made.gone.interval()),
	}
	return made, nil
}

// Run works until ctx is done, and returns when all that it started has ended. It runs once.
func (c *Controller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer c.metrics.forgetNodes()
	defer wg.Wait()
	defer c.placer.queue.ShutDown()
	defer c.waiting.queue.ShutDown()
	wg.Go(func() { c.cluster.run(ctx) })
	if c.contents != nil {
		wg.Go(func() { c.contents.informer.RunWithContext(ctx) })
	}
	if !c.cluster.waitForSync(ctx) {
		return
	}
	c.placer.start(ctx, &wg)
	c.waiting.start(ctx, &wg)
	if c.sizes != nil {
		defer c.sizes.queue.ShutDown()
		c.sizes.start(ctx, &wg)
	}
	if c.unlabelled != nil {
		wg.Go(func() { c.unlabelled.run(ctx) })
	}
	if c.gone != nil {
		wg.Go(func() { c.gone.run(ctx) })
		wg.Go(func() { c.orphans.run(ctx) })
		wg.Go(func() { c.unhealthy.run(ctx) })
		wg.Go(func() { c.links.run(ctx) })
	}
	<-ctx.Done()
}

// later calls f each interval until ctx is done, and for the first time after an interval.
func later(ctx context.Context, interval time.Duration, f func()) {
	// The only error is that of ctx.
	_ = wait.PollUntilContextCancel(ctx, interval, false, func(context.Context) (bool, error) {
		f()
		return false, nil
	})
}
