// Package claims says which claims and PersistentVolumes are of the driver, and where their volumes
// are, from the objects that a user may see.
package claims

import (
	"slices"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The annotations in which Kubernetes keeps the provisioner of a claim: the second is the older
// one.
const (
	provisionerAnnotation    = "volume.kubernetes.io/storage-provisioner"
	oldProvisionerAnnotation = "volume.beta.kubernetes.io/storage-provisioner"
)

// SelectedNode is the annotation with the node that the scheduler has chosen for a claim.
const SelectedNode = "volume.kubernetes.io/selected-node"

// IsProvisioned says whether the claim has the annotation without which the chart's admission
// policy lets the resizer change nothing: one that was written by hand for an existing volume has
// none.
func (i *Index) IsProvisioned(c *core.PersistentVolumeClaim) bool {
	return c.Annotations[provisionerAnnotation] == i.Driver
}

// Index finds objects by what refers to them.
type Index struct {
	Driver  string
	volumes map[string]*core.PersistentVolume
	handles map[string]*core.PersistentVolume
	classes map[string]*storage.StorageClass
	pods    map[Key][]*core.Pod
}

// Key is the namespace and the name of an object.
type Key struct{ Namespace, Name string }

// String is as kubectl writes it.
func (k Key) String() string { return k.Namespace + "/" + k.Name }

// NewIndex makes an index. Any of the lists may be empty.
func NewIndex(
	driver string, volumes []*core.PersistentVolume, classes []*storage.StorageClass,
	pods []*core.Pod,
) *Index {
	i := &Index{
		Driver:  driver,
		volumes: make(map[string]*core.PersistentVolume, len(volumes)),
		handles: make(map[string]*core.PersistentVolume, len(volumes)),
		classes: make(map[string]*storage.StorageClass, len(classes)),
		pods:    map[Key][]*core.Pod{},
	}
	for _, v := range volumes {
		i.volumes[v.Name] = v
		if i.IsOurs(v) {
			i.handles[v.Spec.CSI.VolumeHandle] = v
		}
	}
	for _, c := range classes {
		i.classes[c.Name] = c
	}
	for _, pod := range pods {
		for _, name := range claimsOf(pod) {
			key := Key{pod.Namespace, name}
			i.pods[key] = append(i.pods[key], pod)
		}
	}
	return i
}

// claimsOf are the names of the claims that a pod uses, also of those that are made for it.
func claimsOf(pod *core.Pod) (names []string) {
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, pod.Name+"-"+v.Name)
		}
	}
	return names
}

// IsOurs says whether the driver has a PersistentVolume.
func (i *Index) IsOurs(v *core.PersistentVolume) bool {
	return v.Spec.CSI != nil && v.Spec.CSI.Driver == i.Driver
}

// Class is the StorageClass of a claim; nil: it has none, or the user may not see it.
func (i *Index) Class(c *core.PersistentVolumeClaim) *storage.StorageClass {
	return i.classes[ClassName(c)]
}

// ClassName is the name of the class of a claim.
func ClassName(c *core.PersistentVolumeClaim) string {
	if c.Spec.StorageClassName == nil {
		return ""
	}
	return *c.Spec.StorageClassName
}

// Volume is the PersistentVolume of a claim; nil: it is not bound, or the user may not see it.
func (i *Index) Volume(c *core.PersistentVolumeClaim) *core.PersistentVolume {
	return i.volumes[c.Spec.VolumeName]
}

// ByHandle is the PersistentVolume with a volume ID.
func (i *Index) ByHandle(id string) *core.PersistentVolume { return i.handles[id] }

// Pods are those that use a claim.
func (i *Index) Pods(c *core.PersistentVolumeClaim) []*core.Pod {
	return i.pods[Key{c.Namespace, c.Name}]
}

// Has says whether a claim is one of the driver's: its volume is, or else its class, or else
// Kubernetes has noted the driver in it.
func (i *Index) Has(c *core.PersistentVolumeClaim) bool {
	if v := i.Volume(c); v != nil {
		return i.IsOurs(v)
	}
	if class := i.Class(c); class != nil {
		return class.Provisioner == i.Driver
	}
	return c.Annotations[provisionerAnnotation] == i.Driver ||
		c.Annotations[oldProvisionerAnnotation] == i.Driver
}

// Node is the node of a PersistentVolume, as its topology has it: the node's name, or a hash of a
// name that is too long (volume.TopologyValue). It is empty if the volume is of no node.
func (i *Index) Node(v *core.PersistentVolume) string {
	if v == nil || v.Spec.NodeAffinity == nil || v.Spec.NodeAffinity.Required == nil {
		return ""
	}
	key := volume.TopologyKey(i.Driver)
	for _, term := range v.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			if e.Key == key && len(e.Values) == 1 {
				return e.Values[0]
			}
		}
	}
	return ""
}

// NodeNames finds the names of nodes by their topology values.
func NodeNames(nodes []*core.Node) map[string]string {
	names := make(map[string]string, len(nodes))
	for _, n := range nodes {
		names[volume.TopologyValue(n.Name)] = n.Name
	}
	return names
}

// Capacity is the size of a claim's volume in bytes, or, while there is none, what the claim asks
// for.
func Capacity(c *core.PersistentVolumeClaim) int64 {
	if size, ok := c.Status.Capacity[core.ResourceStorage]; ok {
		return size.Value()
	}
	return Requested(c)
}

// Requested is what a claim asks for, in bytes.
func Requested(c *core.PersistentVolumeClaim) int64 {
	size := c.Spec.Resources.Requests[core.ResourceStorage]
	return size.Value()
}

// Phase is the state of a claim, as kubectl has it.
func Phase(c *core.PersistentVolumeClaim) string {
	if c.DeletionTimestamp != nil {
		return "Terminating"
	}
	return string(c.Status.Phase)
}

// PodNames are the names of pods, in order.
func PodNames(pods []*core.Pod) []string {
	names := make([]string, 0, len(pods))
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return names
}
