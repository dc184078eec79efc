package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/claims"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// Parts of a volume from which on it is said to be nearly full, and full, in percent. The
// filesystem of an image takes a part that it does not write: one of 64 MiB is full at 84 %.
const (
	nearlyFull      = 90
	nearlyFullImage = 80
	full            = 99
)

const runningSection = "The pod runs, but"

// fullVolumes finds volumes whose programs can soon write no more. A raw block volume that was
// written once counts as full, and so does an image that no pod uses: nothing is said of them.
func (e *examination) fullVolumes() string {
	if !e.Installation.IsVisible() || !e.needsData() {
		return ""
	}
	for _, v := range e.Data.Volumes {
		if v.UsedBytes == nil || v.CapacityBytes <= 0 || v.Kind == status.Block ||
			v.Kind == status.Image && len(v.Pods) == 0 {
			continue
		}
		percent := *v.UsedBytes * 100 / v.CapacityBytes
		if percent < nearlyFull && (percent < nearlyFullImage || v.Kind != status.Image) {
			continue
		}
		severity, what := Warning, "nearly full"
		if percent >= full {
			severity, what = Error, "full"
		}
		subject, remedy := e.enlarge(v)
		e.fault(severity, subject, fmt.Sprintf("is %s: %s of %s are used", what,
			output.Bytes(*v.UsedBytes), output.Bytes(v.CapacityBytes)), remedy, e.anchor(runningSection))
	}
	return "no volume that counts its use is nearly full"
}

// enlarge names a volume by its claim, if the user may see that, and says how it gets larger.
func (e *examination) enlarge(v status.Volume) (subject, remedy string) {
	const files = "delete files"
	if v.Inline {
		return e.volumeName(v), files + ", or give the pod a larger inline volume"
	}
	at := slices.IndexFunc(e.Claims, func(c *core.PersistentVolumeClaim) bool {
		pv := e.index.Volume(c)
		return pv != nil && e.index.IsOurs(pv) && pv.Spec.CSI.VolumeHandle == v.ID
	})
	if at < 0 {
		return e.volumeName(v), files + ", or enlarge the volume's claim"
	}
	c := e.Claims[at]
	class := e.index.Class(c)
	if class == nil {
		return claimName(c), files + ", or enlarge the claim, if its class allows volume expansion"
	}
	patch := fmt.Sprintf(`kubectl -n %s patch pvc %s -p `+
		`'{"spec":{"resources":{"requests":{"storage":"%d"}}}}'`, c.Namespace, c.Name, 2*v.CapacityBytes)
	if class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return claimName(c), files + "; or let class " + class.Name + " expand volumes (kubectl patch " +
			"storageclass " + class.Name + ` -p '{"allowVolumeExpansion":true}'), and enlarge the claim: ` +
			patch
	}
	return claimName(c), files + ", or enlarge the claim: " + patch
}

// growth finds claims that ask for more than they have.
func (e *examination) growth() string {
	if !e.needs("persistentvolumeclaims") {
		return ""
	}
	events := latest(e.PodEvents, e.Now)
	for _, c := range e.Claims {
		if c.Status.Phase != core.ClaimBound || c.DeletionTimestamp != nil || !e.index.Has(c) ||
			claims.Requested(c) <= claims.Capacity(c) {
			continue
		}
		says := []string{"wants to grow to " + output.Bytes(claims.Requested(c)) + ", and has " +
			output.Bytes(claims.Capacity(c))}
		why := e.whyNotGrown(c, events)
		do := ""
		for _, message := range why {
			if row, ok := e.book.For(message, leavingSection); ok && do == "" {
				do = row.Do
			}
		}
		if do == "" {
			do = "look at the driver's log on the volume's node: kubectl hostpath logs " + c.Name + " -n " +
				c.Namespace
		}
		e.fault(Warning, claimName(c), strings.Join(append(says, why...), ": "), do,
			e.anchor(leavingSection))
	}
	return "every claim has the size that it asks for" + e.where()
}

// attributes finds claims whose VolumeAttributesClass is not in effect.
func (e *examination) attributes() string {
	if !e.needs("persistentvolumeclaims") {
		return ""
	}
	for _, c := range e.Claims {
		want := valueOf(c.Spec.VolumeAttributesClassName)
		has := valueOf(c.Status.CurrentVolumeAttributesClassName)
		if c.Status.Phase != core.ClaimBound || c.DeletionTimestamp != nil || !e.index.Has(c) ||
			want == has || want == "" {
			continue
		}
		says := []string{"wants the VolumeAttributesClass " + want + ", and has " + cmp.Or(has, "none")}
		for _, condition := range c.Status.Conditions {
			if condition.Type == core.PersistentVolumeClaimVolumeModifyVolumeError {
				says = append(says, condition.Message)
			}
		}
		do := "look at the events of the claim, and at the log of the container resizer"
		if e.Installation.IsVisible() && !e.Installation.IsCentral() {
			do = "take the class off the claim, or use the central deployment: node deployment has none"
		}
		e.fault(Warning, claimName(c), strings.Join(says, ": "), do, "docs/qos.md")
	}
	return "every claim has the VolumeAttributesClass that it asks for" + e.where()
}

// valueOf is a string that may be absent.
func valueOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// resizeFailed is kubelet's event on a pod: k8s.io/kubernetes pkg/kubelet/events.
const resizeFailed = "VolumeResizeFailed"

// notProvisioned is a part of the controller's event ClaimCannotGrow: pkg/lifecycle.
const notProvisioned = "it lacks the annotation of claims that the driver has provisioned"

// whyNotGrown are the messages about a claim's growth, errors first. That a pod must be started is
// left out if one runs: kubelet takes the condition away only when the volume has grown.
func (e *examination) whyNotGrown(
	c *core.PersistentVolumeClaim, podEvents map[claims.Key]*core.Event,
) (messages []string) {
	if pv := e.index.Volume(c); pv != nil && !e.index.IsProvisioned(c) &&
		claims.Requested(c) > pv.Spec.Capacity.Storage().Value() {
		messages = append(messages, notProvisioned)
	}
	running := false
	for _, pod := range e.index.Pods(c) {
		running = running || pod.Status.Phase == core.PodRunning
		event := podEvents[claims.Key{Namespace: pod.Namespace, Name: pod.Name}]
		if event != nil && event.Reason == resizeFailed {
			messages = append(messages, strings.Join(strings.Fields(event.Message), " "))
		}
	}
	for _, condition := range c.Status.Conditions {
		if condition.Message == "" || condition.Status == core.ConditionFalse || // "Unused" since 1.37
			condition.Type == core.PersistentVolumeClaimFileSystemResizePending && running {
			continue
		}
		messages = append(messages, condition.Message)
	}
	return messages
}
