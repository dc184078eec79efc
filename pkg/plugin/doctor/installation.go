package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func (e *examination) installation() string {
	i := e.Installation
	if !i.IsVisible() {
		if !e.MayList("daemonsets") {
			e.unknownf("you may not list daemonsets, so the driver's own parts are not checked")
			return ""
		}
		e.fault(Error, "", "no DaemonSet of driver "+i.Driver+" was found",
			"install the chart, or name the driver's namespace with --driver-namespace",
			"docs/install.md")
		return ""
	}
	deployment := "node"
	if i.IsCentral() {
		deployment = "central"
	}
	return fmt.Sprintf("driver %s, %s deployment, namespace %s", i.Driver, deployment, i.Namespace)
}

func (e *examination) csiDriver() string {
	if !e.needs("csidrivers") {
		return ""
	}
	at := slices.IndexFunc(e.Drivers, func(d *storage.CSIDriver) bool {
		return d.Name == e.Installation.Driver
	})
	if at < 0 {
		e.fault(Error, "csidriver "+e.Installation.Driver, "there is no such object",
			"install the chart again: without the object kubelet waits for an attacher",
			"docs/troubleshooting.md#the-pod-stays-containercreating")
		return ""
	}
	spec, subject := e.Drivers[at].Spec, "csidriver "+e.Installation.Driver
	for _, wrong := range []struct {
		is      bool
		message string
	}{
		{isTrue(spec.AttachRequired, true), "attachRequired is not false: pods wait for an attacher"},
		{!isTrue(spec.PodInfoOnMount, false), "podInfoOnMount is not true: no inline volume works"},
		{!isTrue(spec.StorageCapacity, false), "storageCapacity is not true: the scheduler does not " +
			"know which nodes have room"},
	} {
		if wrong.is {
			e.fault(Error, subject, wrong.message, "use the chart's CSIDriver", "docs/install.md")
		}
	}
	return "the CSIDriver object is as the chart has it"
}

// isTrue reads a field that may be absent.
func isTrue(b *bool, absent bool) bool {
	if b == nil {
		return absent
	}
	return *b
}

// nodes finds nodes that are not ready, and those on which kubelet does not know the driver.
func (e *examination) nodes() string {
	if !e.needs("nodes", "csinodes") || !e.Installation.IsVisible() {
		return ""
	}
	registered := map[string]bool{}
	for _, n := range e.CSINodes {
		registered[n.Name] = slices.ContainsFunc(n.Spec.Drivers, func(d storage.CSINodeDriver) bool {
			return d.Name == e.Installation.Driver
		})
	}
	pods := map[string]*core.Pod{}
	for _, pod := range e.DriverPods {
		pods[pod.Spec.NodeName] = pod
	}
	with := 0
	for _, n := range e.Nodes {
		if registered[n.Name] {
			with++
		}
		if e.down[n.Name] {
			e.nodeDown(n)
			continue
		}
		if registered[n.Name] {
			continue
		}
		e.nodeWithout(n, pods[n.Name])
	}
	return plural(with, "node") + " with the driver"
}

// notReadyCondition is why a node is not ready; nil: it is, or has not said so.
func notReadyCondition(n *core.Node) *core.NodeCondition {
	for i := range n.Status.Conditions {
		c := &n.Status.Conditions[i]
		if c.Type == core.NodeReady && c.Status != core.ConditionTrue {
			return c
		}
	}
	return nil
}

// nodeDown names a node that is not ready. The other checks say nothing of its pods, its link and
// its pools: they cannot be better.
func (e *examination) nodeDown(n *core.Node) {
	c := notReadyCondition(n)
	volumes := 0
	for _, pv := range e.Volumes {
		if e.index.IsOurs(pv) && e.nodeName(e.index.Node(pv)) == n.Name {
			volumes++
		}
	}
	e.fault(Error, "node "+n.Name, fmt.Sprintf("has not been ready for %s: %s; %s there cannot be used",
		output.Age(c.LastTransitionTime.Time, e.Now), strings.TrimRight(c.Message, "."),
		plural(volumes, "volume")),
		"start the node, or its kubelet: its pods find their volumes again; if it is lost, give its "+
			"volumes up", "docs/operations.md#a-node-or-a-disk-is-gone")
}

// nodeWithout says why the driver may be missing on a node.
func (e *examination) nodeWithout(n *core.Node, pod *core.Pod) {
	subject, selector := "node "+n.Name, e.Installation.DaemonSet.Spec.Template.Spec.NodeSelector
	switch {
	case e.isStopped(n):
		e.fault(Warning, subject, "the driver was stopped there by a label",
			fmt.Sprintf("kubectl label node %s %s/stopped-", n.Name, e.Installation.Driver),
			"docs/operations.md#stop-the-driver-on-one-node")
	case pod != nil:
		e.fault(Error, subject, "kubelet has not registered the driver, whose pod there is "+pod.Name,
			"look at the log: kubectl -n "+pod.Namespace+" logs "+pod.Name+" -c driver; kubelet may have "+
				"another directory (kubeletDir)", "docs/install.md#kubelets-directory")
	case !isSelected(n, selector):
	default:
		e.fault(Error, subject, "there is no driver"+taintsOf(n),
			"if the node is to have volumes, let the DaemonSet run there (tolerations, affinity)",
			"docs/troubleshooting.md#the-pod-stays-containercreating")
	}
}

// isStopped: a label keeps the driver from the node, whatever its value.
func (e *examination) isStopped(n *core.Node) bool {
	_, ok := n.Labels[e.Installation.Driver+"/stopped"]
	return ok
}

func isSelected(n *core.Node, selector map[string]string) bool {
	for key, value := range selector {
		if n.Labels[key] != value {
			return false
		}
	}
	return true
}

func taintsOf(n *core.Node) string {
	var taints []string
	for _, t := range n.Spec.Taints {
		if t.Effect != core.TaintEffectPreferNoSchedule {
			taints = append(taints, t.ToString())
		}
	}
	if len(taints) == 0 {
		return ""
	}
	return "; the node has the taint " + strings.Join(taints, ", ")
}

func (e *examination) driverPods() string {
	if !e.Installation.IsVisible() || !e.needs("pods") {
		return ""
	}
	ready := 0
	for _, pod := range e.DriverPods {
		if isReady(pod) {
			ready++
			continue
		}
		if !e.down[pod.Spec.NodeName] {
			e.notReady(pod)
		}
	}
	return plural(ready, "driver pod") + " ready"
}

// notReady says why a pod of the driver or of the controller is not ready.
func (e *examination) notReady(pod *core.Pod) {
	subject := "pod " + pod.Namespace + "/" + pod.Name
	on := ""
	if pod.Spec.NodeName != "" {
		on = " on node " + pod.Spec.NodeName
	}
	if pod.DeletionTimestamp != nil {
		e.fault(Warning, subject, "is being deleted"+on, "", "")
		return
	}
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
			e.fault(Error, subject, fmt.Sprintf("container %s%s: %s %s", c.Name, on, w.Reason,
				firstLine(w.Message)), "kubectl -n "+pod.Namespace+" logs "+pod.Name+" -c "+c.Name+
				" --previous", "docs/install.md#it-does-not-start")
			return
		}
	}
	reasons := e.NodeFaults[pod.Spec.NodeName]
	for _, reason := range reasons {
		c, _ := e.conditions.OfReason(volume.Reason(reason))
		e.fault(Error, "node "+pod.Spec.NodeName, "no pod can get a volume: "+reason+" ("+c.What+")",
			c.Do, "docs/health.md#what-it-can-be")
	}
	if len(reasons) == 0 {
		e.fault(Error, subject, "is not ready"+on,
			"kubectl -n "+pod.Namespace+" logs "+pod.Name, "docs/operations.md#what-the-driver-says")
	}
}

func isReady(pod *core.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == core.PodReady {
			return c.Status == core.ConditionTrue && pod.DeletionTimestamp == nil
		}
	}
	return false
}

func (e *examination) controller() string {
	if !e.Installation.IsVisible() {
		return ""
	}
	for _, d := range e.Installation.Deployments {
		want := int32(1)
		if d.Spec.Replicas != nil {
			want = *d.Spec.Replicas
		}
		if d.Status.ReadyReplicas < want {
			severity := Warning
			if d.Status.ReadyReplicas == 0 {
				severity = Error
			}
			e.fault(severity, "deployment "+d.Namespace+"/"+d.Name,
				fmt.Sprintf("%d of %d replicas are ready", d.Status.ReadyReplicas, want),
				"kubectl -n "+d.Namespace+" get pods -o wide", "docs/operations.md#the-controller")
		}
	}
	for _, pod := range e.ControllerPods {
		if !isReady(pod) && !e.down[pod.Spec.NodeName] {
			e.notReady(pod)
		}
	}
	e.leader()
	if len(e.Installation.Deployments) == 0 {
		return "node deployment without a placer: there is no controller"
	}
	return "all replicas of the Deployments are ready"
}

// leaderlessFor is how old the last sign of life of a leader may be. A leader renews its Lease each
// few seconds; another replica takes over within a minute.
const leaderlessFor = 2 * time.Minute

// leader finds out whether a replica of the controller, or of the placer, leads: claims with a
// source are placed, and owners told what is wrong, only by it.
func (e *examination) leader() {
	name := "csi-hostpath-controller-" + strings.ReplaceAll(e.Installation.Driver, ".", "-")
	at := slices.IndexFunc(e.Leases, func(l *coordination.Lease) bool { return l.Name == name })
	if at < 0 || !e.hasLeader() {
		return
	}
	renewed := e.Leases[at].Spec.RenewTime
	if renewed == nil || e.Now.Sub(renewed.Time) < leaderlessFor {
		return
	}
	e.fault(Error, "lease "+e.Installation.Namespace+"/"+name,
		"no replica has been the leader for "+output.Age(renewed.Time, e.Now),
		"look at the pods and their logs: kubectl -n "+e.Installation.Namespace+" get pods",
		"docs/operations.md#csihostpathnoleader")
}

// placerContainer has the program of the controller in node deployment.
const placerContainer = "placer"

// hasLeader says whether a Deployment elects one. A placer that only answers the resizer does not.
func (e *examination) hasLeader() bool {
	for _, d := range e.Installation.Deployments {
		for _, c := range d.Spec.Template.Spec.Containers {
			if c.Name == objects.ControllerContainer || c.Name == placerContainer {
				return !slices.Contains(c.Args, "--resizer-only")
			}
		}
	}
	return false
}

// versions finds programs of several versions, and sidecars that are older than the chart's.
func (e *examination) versions() string {
	if !e.Installation.IsVisible() {
		return ""
	}
	own := map[string]bool{}
	for _, pod := range slices.Concat(e.DriverPods, e.ControllerPods) {
		for _, c := range pod.Spec.Containers {
			if c.Name == objects.DriverContainer || c.Name == objects.ControllerContainer {
				own[c.Image] = true
			}
		}
	}
	if len(own) > 1 {
		e.fault(Warning, "", "drivers and controllers have several images: "+keys(own),
			"wait for the upgrade to end: kubectl -n "+e.Installation.Namespace+
				" rollout status ds/"+e.Installation.DaemonSet.Name, "docs/install.md")
	}
	found := e.sidecarVersions()
	return strings.Join(append([]string{keys(own)}, found...), ", ")
}

// sidecarVersions compares the tags of the sidecars with those of the chart.
func (e *examination) sidecarVersions() (found []string) {
	specs := []core.PodSpec{e.Installation.DaemonSet.Spec.Template.Spec}
	for _, d := range e.Installation.Deployments {
		specs = append(specs, d.Spec.Template.Spec)
	}
	for _, spec := range specs {
		for _, c := range spec.Containers {
			want, ok := Sidecars[c.Name]
			_, tag, tagged := strings.Cut(c.Image[strings.LastIndexByte(c.Image, '/')+1:], ":")
			if !ok || !tagged {
				continue
			}
			found = append(found, c.Name+" "+tag)
			if isOlder(tag, want) {
				e.fault(Warning, "container "+c.Name, "has version "+tag+"; the chart has "+want,
					"use the sidecars' versions that the chart names", "docs/install.md")
			}
		}
	}
	return found
}

// Sidecars are the least versions of upstream's programs, by the name of their container: those of
// the chart, with which the driver was tested.
var Sidecars = map[string]string{
	"provisioner":         "v6.4.0",
	"resizer":             "v2.3.0",
	"snapshotter":         "v8.7.0",
	"snapshot-controller": "v8.7.0",
}

func keys(set map[string]bool) string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// isOlder compares versions such as v6.4.0. What is no such version is not older.
func isOlder(a, b string) bool {
	x, okX := numbersOf(a)
	y, okY := numbersOf(b)
	return okX && okY && slices.Compare(x[:], y[:]) < 0
}

func numbersOf(version string) (n [3]int, ok bool) {
	_, err := fmt.Sscanf(version, "v%d.%d.%d", &n[0], &n[1], &n[2])
	return n, err == nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func (e *examination) links() string {
	if !e.Installation.IsVisible() || !e.Installation.IsCentral() || !e.needsData() {
		return ""
	}
	linked, stopped := 0, map[string]bool{} // the check of the nodes names those that are stopped
	for _, n := range e.Nodes {
		stopped[n.Name] = e.isStopped(n)
	}
	for _, n := range e.Data.Nodes {
		if n.Linked {
			linked++
			continue
		}
		if stopped[n.Name] || e.down[n.Name] {
			continue
		}
		e.fault(Error, "node "+n.Name, "is not linked to the controller: "+n.Why,
			"look at the driver's log on that node", "docs/operations.md#the-controller")
	}
	return plural(linked, "node") + " linked to the controller"
}
