package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/claims"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/remedy"
)

const (
	// young is how long nothing is said about what may just be under way.
	young = time.Minute
	// recent is how old an event may be.
	recent = time.Hour
)

// The sections of docs/troubleshooting.md.
const (
	claimSection   = "The claim stays Pending"
	podSection     = "The pod stays Pending"
	mountSection   = "The pod stays ContainerCreating"
	leavingSection = "It does not go away, or does not grow"
)

func claimName(c *core.PersistentVolumeClaim) string {
	return "claim " + c.Namespace + "/" + c.Name
}

func className(c *core.PersistentVolumeClaim) string { return claims.ClassName(c) }
func requested(c *core.PersistentVolumeClaim) int64  { return claims.Requested(c) }

// pending are the driver's claims that are not bound.
func (e *examination) pending() (pending []*core.PersistentVolumeClaim) {
	for _, c := range e.Claims {
		if c.Status.Phase == core.ClaimPending && c.DeletionTimestamp == nil && e.index.Has(c) {
			pending = append(pending, c)
		}
	}
	return pending
}

// claims says of each pending claim why it is.
func (e *examination) claims() string {
	if !e.needs("persistentvolumeclaims") {
		return ""
	}
	events := latest(e.ClaimEvents, e.Now)
	for _, c := range e.pending() {
		e.pendingClaim(c, events[claims.Key{Namespace: c.Namespace, Name: c.Name}])
	}
	for _, c := range e.Claims {
		if c.Status.Phase == core.ClaimLost && e.index.Has(c) {
			e.fault(Error, claimName(c), "its PersistentVolume "+c.Spec.VolumeName+" is gone",
				"create the PersistentVolume again, or delete the claim",
				"docs/operations.md#take-a-deleted-volume-back")
		}
	}
	return "no claim waits" + e.where()
}

// where says of which namespaces the lists are.
func (e *examination) where() string {
	if e.AllNamespaces {
		return ""
	}
	return " in this namespace (-A looks at all)"
}

func (e *examination) pendingClaim(c *core.PersistentVolumeClaim, event *core.Event) {
	age := e.Now.Sub(c.CreationTimestamp.Time)
	waits := "Pending for " + output.Age(c.CreationTimestamp.Time, e.Now)
	if event == nil {
		if age > young {
			e.fault(Warning, claimName(c), waits+", and no event says why", "", e.anchor(claimSection))
		}
		return
	}
	row, found := e.book.For(event.Message, claimSection)
	severity := Error
	if isNormal(row, found) || event.Type == core.EventTypeNormal && age < young {
		severity = OK
	}
	e.explain(severity, claimName(c), waits, event.Message, row, found, claimSection)
}

// isNormal says whether the document says that nothing is wrong.
func isNormal(row remedy.Row, found bool) bool {
	return found && strings.HasPrefix(row.Cause, "none")
}

// explain adds a message of Kubernetes with what the document says of it.
func (e *examination) explain(
	severity Severity, subject, what, message string, row remedy.Row, found bool, section string,
) {
	f := Finding{
		Severity: severity, Subject: subject, Reference: e.anchor(section),
		Message: what + ": " + strings.Join(strings.Fields(message), " "),
	}
	if found {
		f.Message += " [" + row.Cause + "]"
		f.Remedy, f.Reference = row.Do, "docs/troubleshooting.md#"+row.Anchor
	}
	e.add(f)
}

func (e *examination) anchor(section string) string {
	return "docs/troubleshooting.md#" +
		strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(section), ",", ""), " ", "-")
}

// latest are the newest events of objects, those of the driver's calls before others: of a claim
// that a pod waits for, the scheduler and the provisioner both say something.
func latest(events []*core.Event, now time.Time) map[claims.Key]*core.Event {
	newest := map[claims.Key]*core.Event{}
	for _, event := range events {
		if now.Sub(lastSeen(event)) > recent {
			continue
		}
		key := claims.Key{Namespace: event.InvolvedObject.Namespace, Name: event.InvolvedObject.Name}
		if other := newest[key]; other == nil || weight(event, other) > 0 {
			newest[key] = event
		}
	}
	return newest
}

// weight compares events: a warning says more than a normal event, and then the later one.
func weight(a, b *core.Event) int {
	return cmp.Or(
		cmp.Compare(isWarning(a), isWarning(b)), lastSeen(a).Compare(lastSeen(b)))
}

func isWarning(e *core.Event) int {
	if e.Type == core.EventTypeWarning {
		return 1
	}
	return 0
}

// lastSeen is when an event came last, of both kinds of events.
func lastSeen(e *core.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// pods says of each pod with volumes of the driver that does not start why it does not.
func (e *examination) pods() string {
	if !e.needs("pods") {
		return ""
	}
	events := latest(e.PodEvents, e.Now)
	for _, pod := range e.Pods {
		if pod.Status.Phase != core.PodPending || pod.DeletionTimestamp != nil || !e.usesDriver(pod) {
			continue
		}
		event := events[claims.Key{Namespace: pod.Namespace, Name: pod.Name}]
		if event == nil || event.Type != core.EventTypeWarning {
			continue
		}
		row, found := e.book.For(event.Message, podSection, mountSection)
		if !found && event.Reason != "FailedScheduling" && event.Reason != "FailedMount" {
			continue // something that has nothing to do with volumes
		}
		severity := Error
		if isNormal(row, found) {
			severity = OK
		}
		section := mountSection
		if event.Reason == "FailedScheduling" {
			section = podSection
		}
		e.explain(severity, "pod "+pod.Namespace+"/"+pod.Name, event.Reason, event.Message, row, found,
			section)
	}
	return "no pod waits for a volume" + e.where()
}

// usesDriver says whether a pod has a claim or an inline volume of the driver.
func (e *examination) usesDriver(pod *core.Pod) bool {
	for _, v := range pod.Spec.Volumes {
		if v.CSI != nil && v.CSI.Driver == e.Installation.Driver {
			return true
		}
	}
	return slices.ContainsFunc(e.Claims, func(c *core.PersistentVolumeClaim) bool {
		return c.Namespace == pod.Namespace && e.index.Has(c) &&
			slices.Contains(e.index.Pods(c), pod)
	})
}

// deletions finds what does not go away.
func (e *examination) deletions() string {
	for _, c := range e.Claims {
		if c.DeletionTimestamp == nil || !e.index.Has(c) ||
			e.Now.Sub(c.DeletionTimestamp.Time) < young {
			continue
		}
		message, do := "has been Terminating for "+output.Age(c.DeletionTimestamp.Time, e.Now), ""
		if pods := e.index.Pods(c); len(pods) > 0 {
			message += "; in use by " + strings.Join(claims.PodNames(pods), ", ")
			do = "delete the pods that use it"
		}
		if slices.Contains(c.Finalizers, "provisioner.storage.kubernetes.io/cloning-protection") {
			message += "; a claim that is to be a clone of it is still Pending"
			do = "find the clone; let it get bound, or delete it"
		}
		e.fault(Warning, claimName(c), message, do, e.anchor(leavingSection))
	}
	e.terminatingPods()
	events := latest(e.VolumeEvents, e.Now)
	for _, pv := range e.Volumes {
		if e.index.IsOurs(pv) {
			e.released(pv, events)
		}
	}
	e.stuckContents()
	return "nothing waits to be deleted"
}

// terminatingPods finds pods that stay although their time to end is over, if that has to do with
// their volumes: kubelet needs the driver of their node to unmount them.
func (e *examination) terminatingPods() {
	events := latest(e.PodEvents, e.Now)
	for _, pod := range e.Pods {
		ended := pod.DeletionTimestamp
		if ended == nil || e.Now.Sub(ended.Time) < young || !e.usesDriver(pod) {
			continue
		}
		subject := "pod " + pod.Namespace + "/" + pod.Name
		stays := "has been Terminating for " + output.Age(ended.Time, e.Now)
		event := events[claims.Key{Namespace: pod.Namespace, Name: pod.Name}]
		if event != nil && event.Type == core.EventTypeWarning {
			if row, found := e.book.For(event.Message, leavingSection); found {
				e.explain(Error, subject, stays, event.Message, row, found, leavingSection)
				continue
			}
		}
		if e.Installation.IsVisible() && e.MayList("pods") && !e.hasDriver(pod.Spec.NodeName) {
			e.fault(Error, subject, stays+"; no driver is ready on its node "+pod.Spec.NodeName,
				"start the driver there; nothing is lost meanwhile", e.anchor(leavingSection))
		}
	}
}

// hasDriver says whether the driver of a node is ready.
func (e *examination) hasDriver(node string) bool {
	return slices.ContainsFunc(e.DriverPods, func(pod *core.Pod) bool {
		return pod.Spec.NodeName == node && isReady(pod)
	})
}

// released finds a PersistentVolume that stays after its claim.
func (e *examination) released(pv *core.PersistentVolume, events map[claims.Key]*core.Event) {
	subject := "volume " + pv.Name
	if pv.Status.Phase != core.VolumeReleased && pv.Status.Phase != core.VolumeFailed {
		return
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimRetain {
		e.fault(Warning, subject,
			"is Released, and its class has reclaimPolicy: Retain: the data is kept",
			"keep it, or delete it: kubectl patch pv "+pv.Name+
				` -p '{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}'`, e.anchor(leavingSection))
		return
	}
	event := events[claims.Key{Name: pv.Name}]
	if event != nil && event.Type == core.EventTypeWarning {
		row, found := e.book.For(event.Message, leavingSection)
		e.explain(Error, subject, "cannot be deleted", event.Message, row, found, leavingSection)
		return
	}
	if changed := pv.Status.LastPhaseTransitionTime; changed != nil &&
		e.Now.Sub(changed.Time) < young {
		return
	}
	e.fault(Error, subject, fmt.Sprintf("is %s on node %s, and no event says why", pv.Status.Phase,
		e.nodeName(e.index.Node(pv))), "start the node, or its driver; if the node is lost, give its "+
		"volumes up", "docs/operations.md#a-node-or-a-disk-is-gone")
}

// classes looks at the StorageClasses of the driver.
func (e *examination) classes() string {
	if !e.needs("storageclasses") {
		return ""
	}
	var ours []string
	defaults := 0
	for _, c := range e.Classes {
		if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			defaults++
		}
		if c.Provisioner != e.Installation.Driver {
			continue
		}
		ours = append(ours, c.Name)
		e.classPool(c)
	}
	if len(ours) == 0 {
		e.fault(Warning, "", "no StorageClass is of driver "+e.Installation.Driver,
			"set storageClasses of the chart", "docs/configuration.md#a-storageclass")
	}
	if defaults > 1 {
		e.fault(Warning, "", fmt.Sprintf("%d StorageClasses are the default: the newest one counts",
			defaults), "let one be the default", "docs/install.md")
	}
	return strings.Join(ours, ", ")
}

// classPool finds a class whose pool no node has.
func (e *examination) classPool(c *storage.StorageClass) {
	name := c.Parameters["pool"]
	if name == "" || e.Data == nil {
		return
	}
	for _, p := range e.Data.Pools {
		if p.Name == name && p.Ready {
			return
		}
	}
	if len(e.Data.Missing) > 0 {
		return
	}
	e.fault(Error, "class "+c.Name, "no node has a pool "+name+" that can be used",
		"correct the class, or mount the disk", e.anchor(claimSection))
}
