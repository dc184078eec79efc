package doctor

import (
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
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

// handlesOf are the handles of snapshots that a VolumeSnapshotContent names: what was made for it,
// and what it was written by hand for.
func handlesOf(content *unstructured.Unstructured) (handles []string) {
	for _, field := range [][]string{
		{"status", "snapshotHandle"}, {"spec", "source", "snapshotHandle"},
	} {
		if handle, _, _ := unstructured.NestedString(content.Object, field...); handle != "" {
			handles = append(handles, handle)
		}
	}
	return handles
}

// orphanSnapshots finds snapshots of pools that no VolumeSnapshotContent names.
func (e *examination) orphanSnapshots() {
	if !e.MayList("volumesnapshotcontents") {
		return
	}
	named, beingCut := map[string]bool{}, map[string]bool{}
	for _, c := range e.contents() {
		handles := handlesOf(c)
		for _, handle := range handles {
			named[handle] = true
		}
		if len(handles) == 0 { // the snapshotter does not know yet that the snapshot is complete
			source, _, _ := unstructured.NestedString(c.Object, "spec", "source", "volumeHandle")
			beingCut[source] = true
		}
	}
	for _, s := range e.Data.Snapshots {
		if named[s.ID] || beingCut[s.Volume] || e.Now.Sub(s.Created) < young {
			continue
		}
		e.fault(Warning, "snapshot "+s.ID+" on node "+s.Node, "has no VolumeSnapshotContent: it holds "+
			output.Bytes(s.HeldBytes)+", and nobody deletes it",
			"keep it with objects of its own (docs/snapshots.md), or delete it on its node",
			"docs/operations.md#volumes-that-kubernetes-has-forgotten")
	}
}

// lostSnapshots finds VolumeSnapshotContents whose snapshot is not there.
func (e *examination) lostSnapshots() string {
	if !e.SnapshotAPI || !e.Installation.IsVisible() || e.Data == nil ||
		!e.needs("volumesnapshotcontents") {
		return ""
	}
	asked, _ := e.askedPools()
	there := map[string]bool{}
	for _, s := range e.Data.Snapshots {
		there[s.ID] = true
	}
	for name, c := range e.contents() {
		for _, handle := range handlesOf(c) {
			id, err := volume.ParseSnapshotID(handle)
			if err != nil || !asked[string(id.Pool())] || there[handle] ||
				c.GetDeletionTimestamp() != nil || e.Now.Sub(c.GetCreationTimestamp().Time) < young {
				continue
			}
			e.fault(Error, "snapshotcontent "+name, "its pool has no snapshot "+handle,
				"if it was deleted, take it back from the trash by hand; else delete the VolumeSnapshot",
				"docs/operations.md#take-a-deleted-volume-back")
			break
		}
	}
	return "the snapshot of every VolumeSnapshotContent is there"
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
