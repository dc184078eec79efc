package lifecycle

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Names of indexes.
const (
	byPool   = "pool"   // volumes by the ID of their pool
	byNode   = "node"   // volumes by the topology value of their node
	byHandle = "handle" // volumes by their volume ID
	byValue  = "value"  // nodes by their topology value
	byClaim  = "claim"  // pods by "namespace/name" of their claims
)

// cluster is what the API server has, of each object only the fields that are needed: there may be
// 50,000 claims.
type cluster struct {
	claims, volumes, classes, nodes, pods, failures cache.SharedIndexInformer

	own []cache.SharedIndexInformer // those that run starts
}

// newCluster watches nodes with others, unless that is nil.
func newCluster(client kubernetes.Interface, driverName string, others *NodeObjects,
) (*cluster, error) {
	f := informers.NewSharedInformerFactory(client, 0)
	c := &cluster{
		claims:  f.Core().V1().PersistentVolumeClaims().Informer(),
		volumes: f.Core().V1().PersistentVolumes().Informer(),
		classes: f.Storage().V1().StorageClasses().Informer(),
		pods: coreinformers.NewFilteredPodInformer(client, "", 0, cache.Indexers{},
			selecting("spec.nodeName=,status.phase=Pending")),
		failures: coreinformers.NewFilteredEventInformer(client, "", 0, cache.Indexers{},
			selecting("involvedObject.kind=PersistentVolumeClaim,reason="+provisioningFailed)),
	}
	volumes := slimmer{driverName: driverName, key: volume.TopologyKey(driverName)}
	for informer, transform := range map[cache.SharedIndexInformer]cache.TransformFunc{
		c.claims:   transforming(slimClaim),
		c.volumes:  transforming(volumes.volume),
		c.classes:  transforming(volumes.class),
		c.pods:     transforming(slimPod),
		c.failures: transforming(slimFailure),
	} {
		if err := informer.SetTransform(transform); err != nil {
			return nil, fmt.Errorf("watch objects: %w", err)
		}
	}
	for informer, indexers := range map[cache.SharedIndexInformer]cache.Indexers{
		c.volumes: {byPool: indexing(poolOf), byNode: indexing(nodeOf), byHandle: indexing(handleOf)},
		c.pods:    {byClaim: indexing(claimsOf)},
	} {
		if err := informer.AddIndexers(indexers); err != nil {
			return nil, fmt.Errorf("index objects: %w", err)
		}
	}
	c.own = []cache.SharedIndexInformer{c.claims, c.volumes, c.classes, c.pods, c.failures}
	if others != nil {
		c.nodes = others.nodes
		return c, nil
	}
	nodes, err := newNodeInformer(f)
	c.nodes, c.own = nodes, append(c.own, nodes)
	return c, err
}

func newNodeInformer(f informers.SharedInformerFactory) (cache.SharedIndexInformer, error) {
	nodes := f.Core().V1().Nodes().Informer()
	if err := nodes.SetTransform(transforming(slimNode)); err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	if err := nodes.AddIndexers(cache.Indexers{byValue: indexing(valueOf)}); err != nil {
		return nil, fmt.Errorf("index nodes: %w", err)
	}
	return nodes, nil
}

// selecting asks the API server for the objects that a field selector selects, and no others.
func selecting(fields string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) { o.FieldSelector = fields }
}

// transforming applies a function to objects that come from the API server. An informer may hand in
// again what the function has returned.
func transforming[From, To any](slim func(From) To) cache.TransformFunc {
	return func(object any) (any, error) {
		if from, ok := object.(From); ok {
			return slim(from), nil
		}
		return object, nil
	}
}

func indexing[T any](values func(T) []string) cache.IndexFunc {
	return func(object any) ([]string, error) {
		if o, ok := object.(T); ok {
			return values(o), nil
		}
		return nil, nil
	}
}

func (c *cluster) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, informer := range c.own {
		wg.Go(func() { informer.RunWithContext(ctx) })
	}
}

func (c *cluster) waitForSync(ctx context.Context) bool {
	synced := []cache.InformerSynced{c.nodes.HasSynced}
	for _, informer := range c.own {
		synced = append(synced, informer.HasSynced)
	}
	return cache.WaitForCacheSync(ctx.Done(), synced...)
}

// get is the object with a key: its name, with its namespace and a slash before it if it has one.
func get[T any](informer cache.SharedIndexInformer, key string) (object T, ok bool) {
	found, exists, err := informer.GetStore().GetByKey(key)
	if err != nil || !exists {
		return object, false
	}
	object, ok = found.(T)
	return object, ok
}

// indexed are the objects that have a value in an index.
func indexed[T any](informer cache.SharedIndexInformer, index, value string) []T {
	found, err := informer.GetIndexer().ByIndex(index, value)
	if err != nil {
		return nil
	}
	objects := make([]T, 0, len(found))
	for _, o := range found {
		if object, ok := o.(T); ok {
			objects = append(objects, object)
		}
	}
	return objects
}

// on calls a function with the key of each object that is new, has changed, or is gone.
func on(informer cache.SharedIndexInformer, call func(key string)) error {
	if _, err := informer.AddEventHandler(calling(call)); err != nil {
		return fmt.Errorf("watch objects: %w", err)
	}
	return nil
}

func calling(call func(key string)) cache.ResourceEventHandler {
	handle := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			call(key)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    handle,
		UpdateFunc: func(_, object any) { handle(object) },
		DeleteFunc: handle,
	}
}

// reference is what an event is about.
func reference(kind string, o metav1.Object) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: "v1", Kind: kind,
		Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(),
	}
}
