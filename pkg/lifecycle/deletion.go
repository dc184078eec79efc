package lifecycle

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// deletionTime is how long a deletion may take before anybody is told what it waits for.
	deletionTime = time.Minute
	// deletionRetry is when a volume that waits is looked at again.
	deletionRetry = 5 * time.Minute
)

// isWaiting says whether the claim is to be deleted and kept for a clone.
func (c *claim) isWaiting() bool { return c.deleting && c.cloning }

// isWaiting says whether external-provisioner is to delete the volume's data.
func (v *persistentVolume) isWaiting(driverName string) bool {
	return v.released && v.isOurs(driverName)
}

func (w *waiting) claimChanged(key string) {
	c, ok := get[*claim](w.cluster.claims, key)
	if !ok {
		return
	}
	if c.isWaiting() {
		w.queue.AddAfter(changed{claim: key}, deletionTime)
	}
	if c.lacksMarkToGrow(w.finder.driverName) {
		w.queue.AddAfter(changed{growth: key}, growthTime)
	}
}

func (w *waiting) volumeChanged(name string) {
	v, ok := get[*persistentVolume](w.cluster.volumes, name)
	if ok && v.isWaiting(w.finder.driverName) {
		w.queue.AddAfter(changed{volume: name}, deletionTime)
	}
}

// tellSource says which claims keep another claim from being deleted: those that are to be clones
// of it, and wait themselves.
func (w *waiting) tellSource(key string) {
	c, ok := get[*claim](w.cluster.claims, key)
	if !ok || !c.isWaiting() || !w.isOurs(c) {
		return
	}
	var clones []string
	for _, o := range w.cluster.claims.GetStore().List() {
		clone, ok := o.(*claim)
		if ok && clone.Namespace == c.Namespace && clone.volume == "" &&
			clone.source == (source{kind: claimKind, name: c.Name}) {
			clones = append(clones, clone.Name)
		}
	}
	if len(clones) == 0 { // the provisioner takes its finalizer off soon
		return
	}
	slices.Sort(clones)
	w.recorder.Eventf(reference(claimKind, c), corev1.EventTypeWarning, reasonKeptForClone,
		"This claim is kept until each clone of it is bound or deleted: %s. Look at the events of the "+
			"clones, and let them get bound, or delete those that nobody needs.",
		strings.Join(clones, ", "))
}

// tellVolume says that a volume cannot be deleted while its node is away. In node deployment nobody
// else does: the only provisioner that deletes the volume is on that node.
func (w *waiting) tellVolume(name string) {
	v, ok := get[*persistentVolume](w.cluster.volumes, name)
	if !ok || !v.isWaiting(w.finder.driverName) || v.node == "" {
		return
	}
	w.queue.AddAfter(changed{volume: name}, deletionRetry)
	state := "does not exist"
	nodeName := v.node
	for _, n := range indexed[*node](w.cluster.nodes, byValue, v.node) {
		if n.ready {
			return
		}
		state, nodeName = "is not ready", n.Name
	}
	w.recorder.Eventf(reference(volumeKind, v), corev1.EventTypeWarning, reasonNodeNotReady,
		"The data of this volume can be deleted only on node %s, which %s. The deletion waits. Bring "+
			"the node back. If it is lost for ever, give the data up: take the finalizers off this object.",
		nodeName, state)
}
