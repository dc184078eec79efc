package doctor

import (
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
)

const snapshotSection = "The VolumeSnapshot does not become ready"

// snapshotAPI looks whether snapshots can work.
func (e *examination) snapshotAPI() string {
	if !e.Installation.IsVisible() {
		return ""
	}
	snapshotter := e.hasContainer("snapshotter")
	const reference = "docs/install.md#snapshots"
	switch {
	case !e.SnapshotAPI && !snapshotter:
		return "snapshots are off: the cluster has no snapshot API"
	case !e.SnapshotAPI:
		e.fault(Error, "", "the snapshotter runs, and the cluster has no snapshot API",
			"install the CRDs of external-snapshotter", reference)
	case !snapshotter:
		e.fault(Warning, "", "the cluster has the snapshot API, and the driver has no snapshotter",
			"set snapshotter.enabled of the chart", reference)
	case e.MayList("volumesnapshotclasses") && !e.hasSnapshotClass():
		e.fault(Warning, "", "no VolumeSnapshotClass is of driver "+e.Installation.Driver,
			"set volumeSnapshotClasses of the chart", reference)
	}
	return "the snapshot API, a class and the snapshotter are there"
}

// hasContainer says whether pods of the installation have a container of that name.
func (e *examination) hasContainer(name string) bool {
	for _, c := range e.Installation.DaemonSet.Spec.Template.Spec.Containers {
		if c.Name == name {
			return true
		}
	}
	for _, d := range e.Installation.Deployments {
		for _, c := range d.Spec.Template.Spec.Containers {
			if c.Name == name {
				return true
			}
		}
	}
	return false
}

func (e *examination) hasSnapshotClass() bool {
	for _, c := range e.SnapshotClasses {
		if driver, _, _ := unstructured.NestedString(c.Object,
			"driver"); driver == e.Installation.Driver {
			return true
		}
	}
	return false
}

// contents are the names of the driver's VolumeSnapshotContents.
func (e *examination) contents() map[string]*unstructured.Unstructured {
	ours := map[string]*unstructured.Unstructured{}
	for _, c := range e.SnapshotContent {
		driver, _, _ := unstructured.NestedString(c.Object, "spec", "driver")
		if driver == e.Installation.Driver {
			ours[c.GetName()] = c
		}
	}
	return ours
}

// snapshots finds VolumeSnapshots that are not ready.
func (e *examination) snapshots() string {
	if !e.SnapshotAPI || !e.needs("volumesnapshots") {
		return ""
	}
	ours := e.contents()
	for _, s := range e.Snapshots {
		ready, _, _ := unstructured.NestedBool(s.Object, "status", "readyToUse")
		name, _, _ := unstructured.NestedString(s.Object, "status", "boundVolumeSnapshotContentName")
		content := ours[name]
		if ready || s.GetDeletionTimestamp() != nil || name != "" && content == nil &&
			e.MayList("volumesnapshotcontents") || e.Now.Sub(s.GetCreationTimestamp().Time) < young {
			continue
		}
		message := failureOf(s)
		if message == "" && content != nil {
			message = failureOf(content)
		}
		subject := "snapshot " + s.GetNamespace() + "/" + s.GetName()
		waits := "not ready for " + output.Age(s.GetCreationTimestamp().Time, e.Now)
		if message == "" {
			e.fault(Warning, subject, waits+", and nothing says why",
				"look whether a snapshotter and the snapshot-controller run", e.anchor(snapshotSection))
			continue
		}
		row, found := e.book.For(message, snapshotSection)
		severity := Error
		if isNormal(row, found) {
			severity = OK
		}
		e.explain(severity, subject, waits, message, row, found, snapshotSection)
	}
	return "every VolumeSnapshot is ready" + e.where()
}

func failureOf(o *unstructured.Unstructured) string {
	message, _, _ := unstructured.NestedString(o.Object, "status", "error", "message")
	return message
}

// stuckContents finds VolumeSnapshotContents that do not go away.
func (e *examination) stuckContents() {
	for name, c := range e.contents() {
		deleted := c.GetDeletionTimestamp()
		if deleted == nil || e.Now.Sub(deleted.Time) < 2*time.Minute {
			continue
		}
		message := "is being deleted for " + output.Age(deleted.Time, e.Now)
		if failure := failureOf(c); failure != "" {
			row, found := e.book.For(failure, snapshotSection)
			e.explain(Warning, "snapshotcontent "+name, message, failure, row, found, snapshotSection)
			continue
		}
		e.fault(Warning, "snapshotcontent "+name, message,
			"look whether its node is there and its driver runs",
			"docs/operations.md#a-node-or-a-disk-is-gone")
	}
}
