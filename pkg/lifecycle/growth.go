package lifecycle

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/kube"
)

const reasonCannotGrow = "ClaimCannotGrow"

const (
	// growthTime is how long the resizer may take to begin before anybody is told why it does not.
	growthTime = 10 * time.Second
	// growthRetry is when a claim that cannot grow is looked at again.
	growthRetry = 10 * time.Minute
)

// lacksMarkToGrow says whether the claim asks for more than it has, and lacks the annotation that
// Kubernetes sets when it has a claim provisioned. A claim that was written by hand for an existing
// volume has none.
func (c *claim) lacksMarkToGrow(driverName string) bool {
	return c.requested > c.has && c.volume != "" && c.provisioner != driverName && !c.deleting
}

// cannotGrow says whether the chart's admission policy keeps the resizer from the claim. The
// resizer marks the claim before it changes the volume: a volume that has the size shows that it
// may.
func (w *waiting) cannotGrow(c *claim) bool {
	if !c.lacksMarkToGrow(w.finder.driverName) {
		return false
	}
	v, ok := get[*persistentVolume](w.cluster.volumes, c.volume)
	return ok && v.ours && v.claimUID == c.UID && c.requested > v.capacity
}

// tellGrowth says to the owner of a claim why it does not grow. external-resizer writes its error
// only to its log.
func (w *waiting) tellGrowth(key string) {
	c, ok := get[*claim](w.cluster.claims, key)
	if !ok || !w.cannotGrow(c) {
		return
	}
	w.queue.AddAfter(changed{growth: key}, growthRetry)
	w.recorder.Eventf(reference(claimKind, c), corev1.EventTypeWarning, reasonCannotGrow,
		"This claim stays at its size: it lacks the annotation of claims that the driver has "+
			"provisioned, and the resizer may change no others. Set the annotation, and the claim grows "+
			"within minutes: kubectl -n %s annotate --overwrite pvc %s %s=%s", c.Namespace, c.Name,
		kube.StorageProvisioner, w.finder.driverName)
}
