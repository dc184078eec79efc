package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// goneSince is an annotation of a PersistentVolume, after the driver's name: since when its Node
	// object is missing. So the time survives a restart of the controller.
	goneSince = "/node-gone-since"
	// nodeGone is an annotation of a StorageClass, after the driver's name, and release its value.
	nodeGone, release = "/node-gone", "release"
	// provisionerFinalizer keeps a PersistentVolume until DeleteVolume has succeeded:
	// sig-storage-lib-external-provisioner, finalizerPV.
	provisionerFinalizer = "external-provisioner.volume.kubernetes.io/finalizer"
	// provisionedBy is an annotation with the driver that has made the volume.
	provisionedBy = "pv.kubernetes.io/provisioned-by"
)

// hashed is what volume.TopologyValue makes of a long name.
var hashed = regexp.MustCompile(`^h-[0-9a-f]{40}$`)

// Reasons of events.
const (
	reasonGone     = "NodeGone"
	reasonReleased = "NodeGoneReleased"
	reasonReturned = "NodeReturned"
)

// goneNodes does what is left to do for volumes whose Node object was deleted. A node that is only
// not ready has its object, and a node that is linked runs: neither is touched.
//
// After the time that the operator has set, a claim is deleted if its class says so: its
// StatefulSet makes it again, with a new volume on another node. The object of a volume whose claim
// is gone, and that external-provisioner cannot delete because DeleteVolume fails, is deleted, too.
// Its data stays on the node's disk. If the node comes back, that volume is an orphan.
type goneNodes struct {
	client     kubernetes.Interface
	cluster    *cluster
	recorder   record.EventRecorder
	nodes      Nodes
	contents   *contents // nil: the cluster has no snapshots
	driverName string
	after      time.Duration // 0: for ever
	metrics    *Metrics
}

// interval is how often the volumes are looked at.
func (g *goneNodes) interval() time.Duration {
	if g.after == 0 {
		return time.Minute
	}
	return min(max(g.after/10, time.Second), time.Minute)
}

// run works until ctx is done. The informers must have synced.
func (g *goneNodes) run(ctx context.Context) {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		g.look(ctx)
		if g.after > 0 {
			g.lookAtSnapshots(ctx)
		}
	}, g.interval())
}

// look goes through the volumes of all nodes once.
func (g *goneNodes) look(ctx context.Context) {
	// Without any node there is no cluster: the API server does not say what is so.
	if len(g.cluster.nodes.GetStore().ListKeys()) == 0 {
		return
	}
	g.metrics.gone.Reset()
	for _, value := range g.cluster.volumes.GetIndexer().ListIndexFuncValues(byNode) {
		volumes := indexed[*persistentVolume](g.cluster.volumes, byNode, value)
		if !g.isGone(value) {
			g.returned(ctx, value, volumes)
			continue
		}
		g.metrics.gone.WithLabelValues(value).Set(float64(len(volumes)))
		if g.after == 0 {
			continue
		}
		for _, v := range volumes {
			if err := g.handle(ctx, value, v); err != nil {
				klog.FromContext(ctx).Error(err, "A volume of a deleted node", "volume", v.Name, "node", value)
			}
		}
	}
}

// isGone says whether the node with a topology value has no Node object, and is not linked.
func (g *goneNodes) isGone(value string) bool {
	return len(indexed[*node](g.cluster.nodes, byValue, value)) == 0 && !g.nodes.IsLinked(value)
}

// returned takes the marks off the volumes of a node that is there.
func (g *goneNodes) returned(ctx context.Context, value string, volumes []*persistentVolume) {
	for _, v := range volumes {
		if v.goneSince == "" {
			continue
		}
		if err := g.mark(ctx, v, nil); err != nil {
			klog.FromContext(ctx).Error(err, "A volume keeps its mark", "volume", v.Name)
			continue
		}
		g.recorder.Eventf(reference(volumeKind, v), corev1.EventTypeNormal, reasonReturned,
			"Node %s is back, with this volume.", value)
	}
}

// handle does for a volume of a deleted node what its time has come for.
func (g *goneNodes) handle(ctx context.Context, value string, v *persistentVolume) error {
	since, err := time.Parse(time.RFC3339, v.goneSince)
	if err != nil { // not marked yet
		now := time.Now().UTC().Format(time.RFC3339)
		if err := g.mark(ctx, v, &now); err != nil {
			return err
		}
		g.tell(value, v)
		return nil
	}
	if time.Since(since) < g.after {
		return nil
	}
	if exists, err := g.exists(ctx, value); err != nil || exists {
		return err
	}
	if c, ok := g.claimOf(v); ok {
		return g.releaseClaim(ctx, value, v, c)
	}
	return g.giveUp(ctx, value, v)
}

// mark sets or, with nil, removes since when the node is gone.
func (g *goneNodes) mark(ctx context.Context, v *persistentVolume, since *string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": v.UID, "annotations": map[string]*string{g.driverName + goneSince: since},
	}})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	_, err = g.client.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.MergePatchType, patch,
		metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotate a volume: %w", err)
	}
	return nil
}

// tell says to the owners of claim and volume what will happen. It is said once: the mark is set.
func (g *goneNodes) tell(value string, v *persistentVolume) {
	next := "The claim keeps the volume until the node is back. To give the data up, delete the " +
		"claim and its pod."
	if c, ok := g.claimOf(v); ok {
		if g.isReleased(c) {
			next = fmt.Sprintf("Bring the node back within %v. After that this claim is deleted, as its "+
				"class says. If it is of a StatefulSet, that makes it again, with an empty volume on another "+
				"node; any other claim you have to make again.", g.after)
		}
		g.recorder.Eventf(reference(claimKind, c), corev1.EventTypeWarning, reasonGone,
			"Node %s, which has the data of volume %s, was deleted. %s", value, v.Name, next)
		return
	}
	next = "Bring the node back, or delete this object."
	if v.isOurs(g.driverName) {
		next = fmt.Sprintf("Bring the node back within %v. After that the object of this volume is "+
			"deleted; its data stays on the node's disk.", g.after)
	}
	g.recorder.Eventf(reference(volumeKind, v), corev1.EventTypeWarning, reasonGone,
		"Node %s, which has the data of this volume, was deleted. %s", value, next)
}

// claimOf is the claim that has the volume, or is to get it.
func (g *goneNodes) claimOf(v *persistentVolume) (*claim, bool) {
	c, ok := get[*claim](g.cluster.claims, v.claim)
	return c, ok && c.UID == v.claimUID
}

// isReleased says whether the claim's class gives claims of deleted nodes up.
func (g *goneNodes) isReleased(c *claim) bool {
	class, ok := get[*class](g.cluster.classes, c.class)
	return ok && class.ours && class.releases
}

// exists asks the API server itself: what the informer has may be old. A node with a long name can
// only be found among all.
func (g *goneNodes) exists(ctx context.Context, value string) (bool, error) {
	options := metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, value).String(),
	}
	if hashed.MatchString(value) {
		options = metav1.ListOptions{}
	}
	list, err := g.client.CoreV1().Nodes().List(ctx, options)
	if err != nil {
		return false, fmt.Errorf("look for a node: %w", err)
	}
	return slices.ContainsFunc(list.Items, func(n corev1.Node) bool {
		return volume.TopologyValue(n.Name) == value
	}), nil
}

// releaseClaim deletes the claim if its class says so. Nobody uses it: the node of its pod is gone.
func (g *goneNodes) releaseClaim(ctx context.Context, value string, v *persistentVolume, c *claim,
) error {
	if c.deleting || c.volume != v.Name || !g.isReleased(c) {
		return nil
	}
	err := g.client.CoreV1().PersistentVolumeClaims(c.Namespace).Delete(ctx, c.Name,
		metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &c.UID}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete claim %s: %w", c.key(), err)
	}
	g.metrics.released.Inc()
	klog.FromContext(ctx).Info("Deleted a claim: its node is gone", "claim", c.key(), "node", value,
		"volume", v.Name, "volumeID", v.handle)
	g.recorder.Eventf(reference(volumeKind, v), corev1.EventTypeWarning, reasonReleased,
		"Claim %s was deleted, as its class says: node %s was deleted more than %v ago. The data is "+
			"still on the node's disk. A claim that no StatefulSet makes again has to be made by hand.",
		c.key(), value, g.after)
	return nil
}

// giveUp deletes the object of a volume that external-provisioner cannot delete. A volume that
// outlives its claim (Retain), or that somebody has written by hand, stays.
func (g *goneNodes) giveUp(ctx context.Context, value string, v *persistentVolume) error {
	if !v.isOurs(g.driverName) || !v.released {
		return nil
	}
	// Whoever has changed it meanwhile may want it for another claim.
	err := g.client.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &v.UID, ResourceVersion: &v.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete a volume: %w", err)
	}
	if err := g.dropFinalizer(ctx, v); err != nil {
		return err
	}
	g.metrics.abandoned.Inc()
	klog.FromContext(ctx).Info("Deleted the object of a volume: its node is gone", "volume", v.Name,
		"volumeID", v.handle, "node", value, "claim", v.claim)
	return nil
}

// dropFinalizer takes external-provisioner's finalizer off a volume that is being deleted.
func (g *goneNodes) dropFinalizer(ctx context.Context, v *persistentVolume) error {
	volumes := g.client.CoreV1().PersistentVolumes()
	current, err := volumes.Get(ctx, v.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a volume: %w", err)
	}
	if current.UID != v.UID || current.DeletionTimestamp == nil {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": current.UID, "resourceVersion": current.ResourceVersion,
		"finalizers": slices.DeleteFunc(current.Finalizers, func(f string) bool {
			return f == provisionerFinalizer
		}),
	}})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	_, err = volumes.Patch(ctx, v.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take the finalizer off a volume: %w", err)
	}
	return nil
}
