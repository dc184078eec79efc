// Package objects reads Kubernetes objects for the kubectl plugin: in pages, with the rights of the
// user, and it remembers what the user may not see.
package objects

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	apps "k8s.io/api/apps/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"
)

// pageSize is how many objects one answer of the API server has at most.
const pageSize = 500

// Reader reads objects. What the user may not read is left out: the list is empty, and NotShown
// says so. The methods may be called concurrently.
type Reader struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface

	mu     sync.Mutex
	denied []string
}

// NotShown has a line for each kind of objects that the user may not read.
func (r *Reader) NotShown() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := slices.Clone(r.denied)
	slices.Sort(lines)
	return slices.Compact(lines)
}

// Deny adds a line of its own to NotShown.
func (r *Reader) Deny(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.denied = append(r.denied, line)
}

// MayList says whether no list of that kind was refused so far. kind is the plural of the API.
func (r *Reader) MayList(kind string) bool {
	return !slices.ContainsFunc(r.NotShown(), func(line string) bool {
		return strings.HasPrefix(line, kind+" ")
	})
}

// allowed turns a refusal of the API server into a line of NotShown.
func (r *Reader) allowed(kind, namespace string, err error) error {
	if !apierrors.IsForbidden(err) {
		return err
	}
	where := "of all namespaces"
	switch {
	case namespace != "":
		where = "of namespace " + namespace
	case slices.Contains(clusterScoped, kind):
		where = "of the cluster"
	}
	r.Deny(fmt.Sprintf("%s %s: you may not list them", kind, where))
	return nil
}

// clusterScoped are the kinds without a namespace.
var clusterScoped = []string{
	"persistentvolumes", "nodes", "csinodes", "csidrivers", "storageclasses", "volumesnapshotcontents",
	"volumesnapshotclasses",
}

// list reads all pages of a list. A list that changes for longer than the API server keeps it is
// read at once (pager, status 410).
func list[T runtime.Object](
	ctx context.Context, r *Reader, kind, namespace string, opts metav1.ListOptions,
	page func(context.Context, metav1.ListOptions) (runtime.Object, error),
) (items []T, err error) {
	p := pager.New(page)
	p.PageSize = pageSize
	p.PageBufferSize = 0
	err = p.EachListItem(ctx, opts, func(o runtime.Object) error {
		item, ok := o.(T)
		if !ok {
			return fmt.Errorf("the API server has sent a %T in a list of %s", o, kind)
		}
		items = append(items, item)
		return nil
	})
	if err = r.allowed(kind, namespace, err); err != nil {
		return nil, fmt.Errorf("list %s: %w", kind, err)
	}
	return items, nil
}

// Claims are the claims of a namespace; "" is all namespaces.
func (r *Reader) Claims(
	ctx context.Context, namespace string,
) ([]*core.PersistentVolumeClaim, error) {
	return list[*core.PersistentVolumeClaim](ctx, r, "persistentvolumeclaims", namespace,
		metav1.ListOptions{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, o)
		})
}

// Volumes are the PersistentVolumes.
func (r *Reader) Volumes(ctx context.Context) ([]*core.PersistentVolume, error) {
	return list[*core.PersistentVolume](ctx, r, "persistentvolumes", "", metav1.ListOptions{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.CoreV1().PersistentVolumes().List(ctx, o)
		})
}

// Pods are the pods of a namespace that have the labels of a selector; "" is all.
func (r *Reader) Pods(ctx context.Context, namespace, selector string) ([]*core.Pod, error) {
	return list[*core.Pod](ctx, r, "pods", namespace, metav1.ListOptions{LabelSelector: selector},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.CoreV1().Pods(namespace).List(ctx, o)
		})
}

// PodsOfNode are the pods of a namespace on a node.
func (r *Reader) PodsOfNode(
	ctx context.Context, namespace, selector, node string,
) ([]*core.Pod, error) {
	opts := metav1.ListOptions{LabelSelector: selector, FieldSelector: "spec.nodeName=" + node}
	return list[*core.Pod](ctx, r, "pods", namespace, opts,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.CoreV1().Pods(namespace).List(ctx, o)
		})
}

// Events are the events about objects of a kind.
func (r *Reader) Events(ctx context.Context, namespace, kind string) ([]*core.Event, error) {
	opts := metav1.ListOptions{FieldSelector: "involvedObject.kind=" + kind}
	return list[*core.Event](ctx, r, "events", namespace, opts,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.CoreV1().Events(namespace).List(ctx, o)
		})
}

// Nodes are the nodes.
func (r *Reader) Nodes(ctx context.Context) ([]*core.Node, error) {
	return list[*core.Node](ctx, r, "nodes", "", metav1.ListOptions{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.CoreV1().Nodes().List(ctx, o)
		})
}

// CSINodes say on which nodes kubelet has registered which drivers.
func (r *Reader) CSINodes(ctx context.Context) ([]*storage.CSINode, error) {
	return list[*storage.CSINode](ctx, r, "csinodes", "", metav1.ListOptions{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.StorageV1().CSINodes().List(ctx, o)
		})
}

// Classes are the StorageClasses.
func (r *Reader) Classes(ctx context.Context) ([]*storage.StorageClass, error) {
	return list[*storage.StorageClass](ctx, r, "storageclasses", "", metav1.ListOptions{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.StorageV1().StorageClasses().List(ctx, o)
		})
}

// Drivers are the CSIDriver objects.
func (r *Reader) Drivers(ctx context.Context) ([]*storage.CSIDriver, error) {
	return list[*storage.CSIDriver](ctx, r, "csidrivers", "", metav1.ListOptions{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.StorageV1().CSIDrivers().List(ctx, o)
		})
}

// Leases are those of a namespace.
func (r *Reader) Leases(
	ctx context.Context, namespace string,
) ([]*coordination.Lease, error) {
	return list[*coordination.Lease](ctx, r, "leases", namespace, metav1.ListOptions{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.CoordinationV1().Leases(namespace).List(ctx, o)
		})
}

// Capacities are the CSIStorageCapacities of a namespace.
func (r *Reader) Capacities(
	ctx context.Context, namespace string,
) ([]*storage.CSIStorageCapacity, error) {
	return list[*storage.CSIStorageCapacity](ctx, r, "csistoragecapacities", namespace,
		metav1.ListOptions{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.StorageV1().CSIStorageCapacities(namespace).List(ctx, o)
		})
}

// DaemonSets are the DaemonSets of a namespace that have the labels of a selector.
func (r *Reader) DaemonSets(
	ctx context.Context, namespace, selector string,
) ([]*apps.DaemonSet, error) {
	return list[*apps.DaemonSet](ctx, r, "daemonsets", namespace,
		metav1.ListOptions{LabelSelector: selector},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.AppsV1().DaemonSets(namespace).List(ctx, o)
		})
}

// Deployments are the Deployments of a namespace that have the labels of a selector.
func (r *Reader) Deployments(
	ctx context.Context, namespace, selector string,
) ([]*apps.Deployment, error) {
	return list[*apps.Deployment](ctx, r, "deployments", namespace,
		metav1.ListOptions{LabelSelector: selector},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return r.Client.AppsV1().Deployments(namespace).List(ctx, o)
		})
}

// snapshotAPI has the objects of external-snapshotter.
//
//nolint:gochecknoglobals // Go has no constant structs
var snapshotAPI = schema.GroupVersion{Group: "snapshot.storage.k8s.io", Version: "v1"}

// Snapshots are the VolumeSnapshots of a namespace.
func (r *Reader) Snapshots(
	ctx context.Context, namespace string,
) ([]*unstructured.Unstructured, error) {
	return r.snapshotObjects(ctx, "volumesnapshots", namespace)
}

// SnapshotContents are the VolumeSnapshotContents.
func (r *Reader) SnapshotContents(ctx context.Context) ([]*unstructured.Unstructured, error) {
	return r.snapshotObjects(ctx, "volumesnapshotcontents", "")
}

// SnapshotClasses are the VolumeSnapshotClasses.
func (r *Reader) SnapshotClasses(ctx context.Context) ([]*unstructured.Unstructured, error) {
	return r.snapshotObjects(ctx, "volumesnapshotclasses", "")
}

// snapshotObjects lists objects of the snapshot API. A cluster without that API has none.
func (r *Reader) snapshotObjects(
	ctx context.Context, kind, namespace string,
) ([]*unstructured.Unstructured, error) {
	resource := r.Dynamic.Resource(snapshotAPI.WithResource(kind))
	objects, err := list[*unstructured.Unstructured](ctx, r, kind, namespace, metav1.ListOptions{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if namespace == "" {
				return resource.List(ctx, o)
			}
			return resource.Namespace(namespace).List(ctx, o)
		})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return objects, err
}

// HasSnapshotAPI says whether the cluster has the snapshot API.
func (r *Reader) HasSnapshotAPI() (bool, error) {
	_, err := r.Client.Discovery().ServerResourcesForGroupVersion(snapshotAPI.String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
