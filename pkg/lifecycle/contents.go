package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	contentKind = "VolumeSnapshotContent"
	// contentFinalizer keeps a VolumeSnapshotContent until DeleteSnapshot has succeeded:
	// external-snapshotter pkg/utils, VolumeSnapshotContentFinalizer.
	contentFinalizer = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
	// goneNode is an annotation of a VolumeSnapshotContent, after the driver's name: the topology
	// value of the node that had it. Nobody else keeps it, and the router forgets a node after a day.
	goneNode = "/node"

	reasonNoNode = "SnapshotHasNoNode"
)

// content is a VolumeSnapshotContent. Of other drivers only its metadata is kept.
type content struct {
	metav1.ObjectMeta
	ours     bool
	pool     volume.PoolID
	label    string // the node in its label of node deployment
	deletes  bool   // its data goes with it
	deleting bool
	// goneSince is as a volume's, and goneNode the topology value of the node that is marked so.
	goneSince, goneNode string
}

// contents watches the VolumeSnapshotContents, if there are any in the cluster.
type contents struct {
	dynamic    dynamic.Interface
	driverName string
	informer   cache.SharedIndexInformer
}

func contentResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{
		Group: snapshotGroup, Version: "v1", Resource: "volumesnapshotcontents",
	}
}

// newContents watches those that are needed: in node deployment the ones without a node, and in the
// central deployment all, for nodes that are gone.
func newContents(o Options) (*contents, error) {
	c := &contents{dynamic: o.Dynamic, driverName: o.DriverName}
	selector := ""
	if o.Nodes == nil {
		selector = "!" + managedBy
	}
	c.informer = dynamicinformer.NewFilteredDynamicInformer(o.Dynamic, contentResource(), "", 0,
		cache.Indexers{}, func(list *metav1.ListOptions) { list.LabelSelector = selector }).Informer()
	if err := c.informer.SetTransform(transforming(c.slim)); err != nil {
		return nil, fmt.Errorf("watch snapshots: %w", err)
	}
	return c, nil
}

func (c *contents) slim(from *unstructured.Unstructured) *content {
	to := &content{ObjectMeta: slimMeta(from)}
	driver, _, _ := unstructured.NestedString(from.Object, "spec", "driver")
	if driver != c.driverName {
		return to
	}
	policy, _, _ := unstructured.NestedString(from.Object, "spec", "deletionPolicy")
	annotations := from.GetAnnotations()
	to.ours, to.pool, to.label = true, poolOfContent(from), from.GetLabels()[managedBy]
	to.deletes, to.deleting = policy == "Delete", from.GetDeletionTimestamp() != nil
	to.goneSince, to.goneNode = annotations[c.driverName+goneSince], annotations[c.driverName+goneNode]
	return to
}

// list are this driver's contents. It is empty until the API server has been asked.
func (c *contents) list() (list []*content) {
	if c == nil || !c.informer.HasSynced() {
		return nil
	}
	for _, object := range c.informer.GetStore().List() {
		if one, ok := object.(*content); ok && one.ours {
			list = append(list, one)
		}
	}
	return list
}

// mark notes since when the node is gone, or with nil takes the note off. Errors: those of the API
// server.
func (c *contents) mark(ctx context.Context, one *content, since, node *string) error {
	return c.patch(ctx, one, map[string]any{
		"uid": one.UID,
		"annotations": map[string]*string{
			c.driverName + goneSince: since, c.driverName + goneNode: node,
		},
	})
}

// dropFinalizer takes external-snapshotter's finalizer off a content that is being deleted. Errors:
// those of the API server.
func (c *contents) dropFinalizer(ctx context.Context, one *content) error {
	current, err := c.dynamic.Resource(contentResource()).Get(ctx, one.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a snapshot: %w", err)
	}
	if current.GetUID() != one.UID || current.GetDeletionTimestamp() == nil {
		return nil
	}
	left := slices.DeleteFunc(current.GetFinalizers(), func(f string) bool {
		return f == contentFinalizer
	})
	return c.patch(ctx, one, map[string]any{
		"uid": one.UID, "resourceVersion": current.GetResourceVersion(), "finalizers": left,
	})
}

func (c *contents) patch(ctx context.Context, one *content, metadata map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	_, err = c.dynamic.Resource(contentResource()).Patch(ctx, one.Name, types.MergePatchType, patch,
		metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("change a snapshot: %w", err)
	}
	return nil
}

// contentReference is what an event is about.
func contentReference(o *content) *corev1.ObjectReference {
	ref := reference(contentKind, o)
	ref.APIVersion = snapshotGroup + "/v1"
	return ref
}

// lookAtSnapshots does for the snapshots of deleted nodes what look does for volumes. A snapshot is
// never deleted: only who deletes it is not kept waiting for ever.
func (g *goneNodes) lookAtSnapshots(ctx context.Context) {
	for _, c := range g.contents.list() {
		value := g.nodeOfContent(c)
		if value == "" {
			continue
		}
		if err := g.handleSnapshot(ctx, value, c); err != nil {
			klog.FromContext(ctx).Error(err, "A snapshot of a deleted node", "content", c.Name,
				"node", value)
		}
	}
}

// nodeOfContent is the topology value of the node that has, or had, a snapshot. Empty: nobody
// knows.
func (g *goneNodes) nodeOfContent(c *content) string {
	if name, ok := g.nodes.OfPool(c.pool); ok {
		return volume.TopologyValue(name)
	}
	switch {
	case c.goneNode != "":
		return c.goneNode
	case c.label != "":
		return volume.TopologyValue(c.label)
	}
	for _, v := range indexed[*persistentVolume](g.cluster.volumes, byPool, string(c.pool)) {
		return v.node
	}
	return ""
}

func (g *goneNodes) handleSnapshot(ctx context.Context, value string, c *content) error {
	switch gone, marked := g.isGone(value), c.goneSince != ""; {
	case !gone && marked:
		return g.contents.mark(ctx, c, nil, nil)
	case gone && !marked:
		now := time.Now().UTC().Format(time.RFC3339)
		if err := g.contents.mark(ctx, c, &now, &value); err != nil {
			return err
		}
		g.recorder.Eventf(contentReference(c), corev1.EventTypeWarning, reasonGone,
			"Node %s, which has the data of this snapshot, was deleted. To use the snapshot, bring the "+
				"node back. To give it up, delete the VolumeSnapshot: this object goes %v from now, and the data "+
				"stays on the node's disk.",
			value, g.after)
		return nil
	case !gone || !c.deleting || !c.deletes:
		return nil
	}
	since, err := time.Parse(time.RFC3339, c.goneSince)
	if err == nil && time.Since(since) < g.after {
		return nil
	}
	if exists, err := g.exists(ctx, value); err != nil || exists {
		return err
	}
	if err := g.contents.dropFinalizer(ctx, c); err != nil {
		return err
	}
	g.metrics.abandonedSnapshots.Inc()
	klog.FromContext(ctx).Info("Deleted the object of a snapshot: its node is gone", "content", c.Name,
		"node", value)
	return nil
}

// unlabelled tells of contents that no node looks after in node deployment: each snapshotter takes
// those with its node's name in a label. The snapshot controller sets it; whoever writes a content
// by hand may not know.
type unlabelled struct {
	options  Options
	cluster  *cluster
	contents *contents
	sent     map[types.UID]bool
}

// unlabelledInterval is how often the contents are looked at. They may get their label meanwhile.
const unlabelledInterval = 30 * time.Second

// run works until ctx is done. The informers must have synced.
func (u *unlabelled) run(ctx context.Context) {
	later(ctx, unlabelledInterval, func() { u.look(ctx) })
}

func (u *unlabelled) look(ctx context.Context) {
	sent := map[types.UID]bool{}
	for _, c := range u.contents.list() {
		if c.label != "" {
			continue
		}
		sent[c.UID] = u.sent[c.UID]
		if sent[c.UID] {
			continue
		}
		if err := u.tell(ctx, c); err != nil {
			klog.FromContext(ctx).Error(err, "Nobody is told that a snapshot has no node", "content", c.Name)
			continue
		}
		sent[c.UID] = true
	}
	u.sent = sent
}

// tell sends an event. It is sent again by another leader, an hour later: the snapshot still hangs.
func (u *unlabelled) tell(ctx context.Context, c *content) error {
	remedy := fmt.Sprintf("%s=NODE, with the node that has pool %s: the UUID in its pool.json begins so",
		managedBy, c.pool)
	for _, v := range indexed[*persistentVolume](u.cluster.volumes, byPool, string(c.pool)) {
		for _, n := range indexed[*node](u.cluster.nodes, byValue, v.node) {
			remedy = managedBy + "=" + n.Name
		}
	}
	return kube.SendOnce(ctx, u.options.Client, kube.OnceEvent{
		Name: string(c.UID) + ".no-node", Component: u.options.Component, About: contentReference(c),
		Type: corev1.EventTypeWarning, Reason: reasonNoNode,
		Message: "No node looks after this snapshot, because it lacks a label. Set the label " + remedy + ".",
	})
}
