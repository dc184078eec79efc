package lifecycle

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// provisioningFailed is the reason of external-provisioner's event for a failed call.
	provisioningFailed = "ProvisioningFailed"
	// cloneFinalizer keeps the source of a clone: external-provisioner pkg/controller,
	// pvcCloneFinalizer.
	cloneFinalizer = "provisioner.storage.kubernetes.io/cloning-protection"
)

// slimMeta is what is kept of each object's metadata.
func slimMeta(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(),
		ResourceVersion: o.GetResourceVersion(),
	}
}

// claim is a PersistentVolumeClaim.
type claim struct {
	metav1.ObjectMeta
	class    string
	source   source // the zero source: none
	volume   string // the name of its PersistentVolume; empty: not bound
	selected string // the node in its annotation
	// requested is the size that it asks for, in bytes; has is the size that it has.
	requested, has int64
	provisioner    string // the driver in its annotation
	deleting       bool
	// cloning says that external-provisioner keeps the claim for a clone that is to be made from it.
	cloning bool
}

func (c *claim) key() string { return c.Namespace + "/" + c.Name }

func slimClaim(from *corev1.PersistentVolumeClaim) *claim {
	c := &claim{
		ObjectMeta: slimMeta(from),
		source:     sourceOf(from),
		volume:     from.Spec.VolumeName,
		selected:   from.Annotations[kube.SelectedNode],
		deleting:   from.DeletionTimestamp != nil,
		cloning:    slices.Contains(from.Finalizers, cloneFinalizer),
	}
	c.requested = from.Spec.Resources.Requests.Storage().Value()
	c.has = from.Status.Capacity.Storage().Value()
	c.provisioner = from.Annotations[kube.StorageProvisioner]
	if from.Spec.StorageClassName != nil {
		c.class = *from.Spec.StorageClassName
	}
	return c
}

// persistentVolume is a PersistentVolume. Of other drivers only its metadata is kept.
type persistentVolume struct {
	metav1.ObjectMeta
	ours   bool
	handle string // the volume ID
	access volume.AccessType
	node   string // the topology value of its node
	// capacity is in bytes.
	capacity int64
	// claim is the claim that the volume is for, "namespace/name"; it may be gone.
	claim     string
	claimUID  types.UID
	released  bool   // the claim is gone
	deletes   bool   // its data goes with its claim
	madeBy    string // the driver whose provisioner has made it
	goneSince string // RFC 3339; empty: its node is not marked as gone
}

// isOurs says whether external-provisioner deletes the volume's data when its claim is gone.
func (v *persistentVolume) isOurs(driverName string) bool {
	return v.deletes && v.madeBy == driverName
}

// slimmer leaves out what belongs to other drivers.
type slimmer struct{ driverName, key string }

func (s slimmer) volume(from *corev1.PersistentVolume) *persistentVolume {
	v := &persistentVolume{ObjectMeta: slimMeta(from)}
	if from.Spec.CSI == nil || from.Spec.CSI.Driver != s.driverName {
		return v
	}
	v.ours, v.handle, v.node = true, from.Spec.CSI.VolumeHandle, s.nodeIn(from.Spec.NodeAffinity)
	if ref := from.Spec.ClaimRef; ref != nil {
		v.claim, v.claimUID = ref.Namespace+"/"+ref.Name, ref.UID
	}
	v.CreationTimestamp = from.CreationTimestamp
	v.access, v.capacity = accessOf(&from.Spec), from.Spec.Capacity.Storage().Value()
	v.deletes = from.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	v.released = from.Status.Phase == corev1.VolumeReleased || from.Status.Phase == corev1.VolumeFailed
	v.madeBy = from.Annotations[provisionedBy]
	v.goneSince = from.Annotations[s.driverName+goneSince]
	return v
}

// accessOf is how the volume was asked for. external-provisioner writes the class's filesystem.
func accessOf(from *corev1.PersistentVolumeSpec) volume.AccessType {
	if mode := from.VolumeMode; mode != nil && *mode == corev1.PersistentVolumeBlock {
		return volume.AccessType{Block: true}
	}
	fsType, err := volume.ParseFSType(from.CSI.FSType)
	if err != nil { // somebody has written it by hand
		return volume.AccessType{}
	}
	return volume.AccessType{FSType: fsType}
}

// nodeIn is the topology value in what external-provisioner makes of a topology: a term with one
// expression (GenerateVolumeNodeAffinity).
func (s slimmer) nodeIn(affinity *corev1.VolumeNodeAffinity) string {
	if affinity == nil || affinity.Required == nil {
		return ""
	}
	for _, term := range affinity.Required.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			if e.Key == s.key && e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 {
				return e.Values[0]
			}
		}
	}
	return ""
}

func poolOf(v *persistentVolume) []string {
	id, err := volume.ParseID(v.handle)
	if err != nil { // of another driver, or a reference to a path of the host
		return nil
	}
	return []string{string(id.Pool())}
}

func handleOf(v *persistentVolume) []string {
	if !v.ours {
		return nil
	}
	return []string{v.handle}
}

func nodeOf(v *persistentVolume) []string {
	if v.node == "" {
		return nil
	}
	return []string{v.node}
}

// class is a StorageClass.
type class struct {
	metav1.ObjectMeta
	ours bool
	// waits says that its claims wait for their first consumer.
	waits bool
	// releases says that claims of a node that was deleted are given up.
	releases bool
	// parameters say what its volumes are; nil: they cannot be read, or it is another driver's class.
	parameters *volume.Parameters
}

func (s slimmer) class(from *storagev1.StorageClass) *class {
	mode := from.VolumeBindingMode
	c := &class{
		ObjectMeta: slimMeta(from),
		ours:       from.Provisioner == s.driverName,
		releases:   from.Annotations[s.driverName+nodeGone] == release,
		waits:      mode != nil && *mode == storagev1.VolumeBindingWaitForFirstConsumer,
	}
	if c.ours {
		c.parameters = parametersOf(from)
	}
	return c
}

// parametersOf are those that the driver gets: external-provisioner keeps its own.
func parametersOf(from *storagev1.StorageClass) *volume.Parameters {
	own := maps.Clone(from.Parameters)
	maps.DeleteFunc(own, func(key, _ string) bool {
		return key == "fstype" || strings.HasPrefix(key, "csi.storage.k8s.io/")
	})
	parameters, err := volume.ParseParameters(own)
	if err != nil { // no volume can be made of this class
		return nil
	}
	return &parameters
}

// node is a Node.
type node struct {
	metav1.ObjectMeta
	cordoned bool
	ready    bool
	// notReadySince is zero if the node is ready, or has never said so.
	notReadySince time.Time
	// tainted says that a taint keeps pods away; taints are those that need a toleration of one's own.
	tainted bool
	taints  []corev1.Taint
}

func slimNode(from *corev1.Node) *node {
	n := &node{ObjectMeta: slimMeta(from), cordoned: from.Spec.Unschedulable}
	n.Labels = from.Labels
	for _, t := range from.Spec.Taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule {
			continue
		}
		n.tainted = true
		// What cordoned and ready say, Kubernetes also says as a taint.
		if !strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			n.taints = append(n.taints, t)
		}
	}
	for _, c := range from.Status.Conditions {
		if c.Type == corev1.NodeReady {
			n.ready = c.Status == corev1.ConditionTrue
			if !n.ready {
				n.notReadySince = c.LastTransitionTime.Time
			}
		}
	}
	return n
}

func valueOf(n *node) []string { return []string{volume.TopologyValue(n.Name)} }

// pod is a Pod that has no node yet.
type pod struct {
	metav1.ObjectMeta
	claims []string // "namespace/name"
	// unschedulable is why the scheduler finds no node; empty: it has not said so.
	unschedulable string
	tolerations   []corev1.Toleration
	nodeSelector  map[string]string
}

func slimPod(from *corev1.Pod) *pod {
	p := &pod{
		ObjectMeta:   slimMeta(from),
		tolerations:  from.Spec.Tolerations,
		nodeSelector: from.Spec.NodeSelector,
	}
	for i := range from.Spec.Volumes {
		v := &from.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			p.claims = append(p.claims, from.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil: // k8s.io/component-helpers storage/ephemeral, VolumeClaimName
			p.claims = append(p.claims, from.Namespace+"/"+from.Name+"-"+v.Name)
		}
	}
	for _, c := range from.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
			p.unschedulable = cmp.Or(c.Message, c.Reason)
		}
	}
	return p
}

func claimsOf(p *pod) []string { return p.claims }

// failure is an event: a claim's volume could not be made.
type failure struct {
	metav1.ObjectMeta
	claim   string // "namespace/name"
	message string
}

func slimFailure(from *corev1.Event) *failure {
	return &failure{
		ObjectMeta: slimMeta(from),
		claim:      from.InvolvedObject.Namespace + "/" + from.InvolvedObject.Name,
		message:    from.Message,
	}
}
