package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// NodeObject is what the Kubernetes API has of a node.
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

// NodeObjects watches Node and CSINode objects. Each replica needs it, also one that is not the
// leader: each has a router.
type NodeObjects struct {
	nodes, csiNodes cache.SharedIndexInformer
}

// csiNode is a CSINode. kubelet writes there which drivers have registered.
type csiNode struct {
	metav1.ObjectMeta
	hasDriver bool
}

// WatchNodes starts nothing.
func WatchNodes(client kubernetes.Interface, driverName string) (*NodeObjects, error) {
	f := informers.NewSharedInformerFactory(client, 0)
	nodes, err := newNodeInformer(f)
	if err != nil {
		return nil, err
	}
	n := &NodeObjects{nodes: nodes, csiNodes: f.Storage().V1().CSINodes().Informer()}
	slim := func(from *storagev1.CSINode) *csiNode {
		named := func(d storagev1.CSINodeDriver) bool { return d.Name == driverName }
		return &csiNode{slimMeta(from), slices.ContainsFunc(from.Spec.Drivers, named)}
	}
	if err := n.csiNodes.SetTransform(transforming(slim)); err != nil {
		return nil, fmt.Errorf("watch CSINodes: %w", err)
	}
	return n, nil
}

// Run works until ctx is done, and runs once. It calls tell for each node, and again when it has
// changed, one call at a time; and read when it has told of all nodes that there are.
func (n *NodeObjects) Run(ctx context.Context, tell func(NodeObject), read func()) error {
	var mu sync.Mutex // two events of a node must not be told in the wrong order
	handle := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		tell(n.object(name))
	}
	var synced []cache.InformerSynced
	for _, informer := range []cache.SharedIndexInformer{n.nodes, n.csiNodes} {
		registration, err := informer.AddEventHandler(calling(handle))
		if err != nil {
			return fmt.Errorf("watch nodes: %w", err)
		}
		synced = append(synced, registration.HasSynced)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { n.nodes.RunWithContext(ctx) })
	wg.Go(func() { n.csiNodes.RunWithContext(ctx) })
	if cache.WaitForCacheSync(ctx.Done(), synced...) {
		read()
	}
	return nil
}

// object puts together what both objects of a node say.
func (n *NodeObjects) object(name string) NodeObject {
	o := NodeObject{Name: name}
	found, exists := get[*node](n.nodes, name)
	if !exists {
		return o
	}
	o.Exists, o.Cordoned, o.Tainted = true, found.cordoned, found.tainted
	o.NotReadySince = found.notReadySince
	if c, ok := get[*csiNode](n.csiNodes, name); ok {
		o.HasDriver = c.hasDriver
	}
	return o
}
