package lifecycle

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	snapshotGroup = "snapshot.storage.k8s.io"
	snapshotKind  = "VolumeSnapshot"
	claimKind     = "PersistentVolumeClaim"
	volumeKind    = "PersistentVolume"
	// managedBy names the node whose snapshotter has a VolumeSnapshotContent in node deployment:
	// external-snapshotter pkg/utils, VolumeSnapshotContentManagedByLabel.
	managedBy = "snapshot.storage.kubernetes.io/managed-by"
)

var (
	// errNotYet is for a source that does not exist, or whose volume is not known, for now.
	errNotYet = errors.New("the source has no node yet")
	// errForeign is for a source that another driver has.
	errForeign = errors.New("the source is not this driver's")
)

// source is what a claim is made from: a snapshot or a claim in the claim's own namespace.
type source struct{ kind, name string }

func (s source) String() string { return s.kind + " " + s.name }

// sourceOf reads what external-provisioner reads: the API server sets dataSource from
// dataSourceRef, unless that names another namespace (pkg/registry/core/persistentvolumeclaim,
// NormalizeDataSources). Sources of other kinds are filled by other programs.
func sourceOf(c *corev1.PersistentVolumeClaim) source {
	from := c.Spec.DataSource
	if from == nil {
		return source{}
	}
	group := ""
	if from.APIGroup != nil {
		group = *from.APIGroup
	}
	if from.Kind == snapshotKind && group == snapshotGroup || from.Kind == claimKind && group == "" {
		return source{kind: from.Kind, name: from.Name}
	}
	return source{}
}

// finder finds on which node a source is.
type finder struct {
	cluster    *cluster
	dynamic    dynamic.Interface
	driverName string
	nodes      Nodes // may be nil
}

// node is the name of the node that has the source. Errors: errNotYet, errForeign, those of the API
// server.
func (f *finder) node(ctx context.Context, namespace string, s source) (string, error) {
	if s.kind == claimKind {
		return f.ofClaim(namespace, s.name)
	}
	return f.ofSnapshot(ctx, namespace, s.name)
}

func (f *finder) ofClaim(namespace, name string) (string, error) {
	c, ok := get[*claim](f.cluster.claims, namespace+"/"+name)
	if !ok || c.volume == "" {
		return "", fmt.Errorf("%w: claim %s is not bound", errNotYet, name)
	}
	v, ok := get[*persistentVolume](f.cluster.volumes, c.volume)
	if !ok {
		return "", fmt.Errorf("%w: volume %s is not known", errNotYet, c.volume)
	}
	if !v.ours {
		return "", fmt.Errorf("%w: volume %s", errForeign, v.Name)
	}
	if id, err := volume.ParseID(v.handle); err == nil && f.nodes != nil {
		if found, ok := f.nodes.OfPool(id.Pool()); ok {
			return found, nil
		}
	}
	return f.nodeName(v.node)
}

// nodeName is the name of the node with a topology value. The value of a long name is a hash.
func (f *finder) nodeName(value string) (string, error) {
	if value == "" {
		return "", fmt.Errorf("%w: its volume is not bound to a node", errForeign)
	}
	for _, n := range indexed[*node](f.cluster.nodes, byValue, value) {
		return n.Name, nil
	}
	return value, nil // the Node object is gone: the caller says so
}

func (f *finder) ofSnapshot(ctx context.Context, namespace, name string) (string, error) {
	snapshot, err := f.get(ctx, "volumesnapshots", namespace, name)
	if err != nil {
		return "", err
	}
	bound, _, _ := unstructured.NestedString(snapshot.Object, "status",
		"boundVolumeSnapshotContentName")
	if bound == "" { // the snapshot is still being made: where its volume is
		taken, _, _ := unstructured.NestedString(snapshot.Object, "spec", "source",
			"persistentVolumeClaimName")
		if taken == "" {
			return "", fmt.Errorf("%w: snapshot %s is not bound", errNotYet, name)
		}
		return f.ofClaim(namespace, taken)
	}
	content, err := f.get(ctx, "volumesnapshotcontents", "", bound)
	if err != nil {
		return "", err
	}
	return f.ofContent(content)
}

// ofContent asks the linked nodes first: they know where a disk is now. Then the label, which names
// the node whose snapshotter has the content. Then any volume of the same pool.
func (f *finder) ofContent(content *unstructured.Unstructured) (string, error) {
	driver, _, _ := unstructured.NestedString(content.Object, "spec", "driver")
	if driver != f.driverName {
		return "", fmt.Errorf("%w: VolumeSnapshotContent %s", errForeign, content.GetName())
	}
	pool := poolOfContent(content)
	if f.nodes != nil {
		if found, ok := f.nodes.OfPool(pool); ok {
			return found, nil
		}
	}
	if label := content.GetLabels()[managedBy]; label != "" {
		return f.nodeName(label)
	}
	for _, v := range indexed[*persistentVolume](f.cluster.volumes, byPool, string(pool)) {
		return f.nodeName(v.node)
	}
	return "", fmt.Errorf("%w: nothing says which node has VolumeSnapshotContent %s", errNotYet,
		content.GetName())
}

// poolOfContent is the pool of a snapshot, or of the volume of which it is being made. Empty: none
// of this driver's.
func poolOfContent(content *unstructured.Unstructured) volume.PoolID {
	for _, field := range [][]string{
		{"status", "snapshotHandle"},
		{"spec", "source", "snapshotHandle"}, // written by hand
	} {
		handle, _, _ := unstructured.NestedString(content.Object, field...)
		if id, err := volume.ParseSnapshotID(handle); err == nil {
			return id.Pool()
		}
	}
	handle, _, _ := unstructured.NestedString(content.Object, "spec", "source", "volumeHandle")
	id, _ := volume.ParseID(handle)
	return id.Pool()
}

// get reads an object of the snapshot API. It is read when it is needed, not watched: few claims
// are made from a snapshot, and a cluster may have no snapshots at all.
func (f *finder) get(ctx context.Context, resource, namespace, name string,
) (*unstructured.Unstructured, error) {
	r := schema.GroupVersionResource{Group: snapshotGroup, Version: "v1", Resource: resource}
	o, err := f.dynamic.Resource(r).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("%w: %s %s does not exist", errNotYet, resource, name)
	case err != nil:
		return nil, fmt.Errorf("read %s %s: %w", resource, name, err)
	}
	return o, nil
}
