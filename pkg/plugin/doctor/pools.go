package doctor

import (
	"fmt"
	"slices"

	storage "k8s.io/api/storage/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func subjectOf(p status.Pool) string { return "pool " + p.Name + " on node " + p.Node }

func (e *examination) pools() string {
	if !e.Installation.IsVisible() || !e.needsData() {
		return ""
	}
	ready := 0
	for _, p := range e.Data.Pools {
		switch {
		case p.Ready:
			ready++
		case p.Reason == string(volume.ReasonOpening):
			e.fault(Warning, subjectOf(p), "is being opened", "wait", "")
		case p.Optional && (p.Reason == string(volume.ReasonAbsent) ||
			p.Reason == string(volume.ReasonNotMounted)):
		default:
			c, _ := e.conditions.OfReason(volume.Reason(p.Reason))
			e.fault(Error, subjectOf(p), "is not open: "+p.Reason+" ("+c.What+")", c.Do,
				"docs/health.md#what-it-can-be")
		}
	}
	for _, m := range e.Data.Missing {
		if e.down[m.Node] {
			continue
		}
		if m.Pool == "" {
			e.fault(Warning, "node "+m.Node, "did not answer about its pools: "+m.Reason, "", "")
		} else if !e.isNotReady(m) {
			e.fault(Warning, "pool "+m.Pool+" on node "+m.Node, "did not answer: "+m.Reason, "", "")
		}
	}
	return plural(ready, "pool") + " open"
}

// isNotReady says whether the list of pools says already that the pool cannot be used.
func (e *examination) isNotReady(m status.Missing) bool {
	return slices.ContainsFunc(e.Data.Pools, func(p status.Pool) bool {
		return p.Node == m.Node && p.Name == m.Pool && !p.Ready
	})
}

// sizes finds pools that enforce no sizes and have volumes that can outgrow theirs. Images keep
// their size in every pool. Volumes of nodes that did not answer are not known.
func (e *examination) sizes() string {
	if !e.Installation.IsVisible() || !e.needsData() {
		return ""
	}
	type key struct{ node, pool string }
	counted := map[key]int{}
	for _, v := range e.Data.Volumes {
		if !v.EnforcesSize && !v.Damaged {
			counted[key{v.Node, v.Pool}]++
		}
	}
	for _, p := range e.Data.Pools {
		if n := counted[key{p.Node, p.Name}]; p.Ready && !p.EnforcesSizes && n > 0 {
			e.fault(Warning, subjectOf(p),
				"enforces no sizes: "+plural(n, "volume")+" can fill the disk",
				"mount the disk with quotas, or use a class with backing: enforced", "docs/sizes.md")
		}
	}
	return "no pool without quotas has volumes that can outgrow their size"
}

// Parts of a pool from which on it is said to be almost full: those of the alerts.
const (
	leastAvailable = 10 // percent
	leastFree      = 5  // percent
)

func (e *examination) room() string {
	if !e.Installation.IsVisible() {
		return ""
	}
	e.claimsBeyondRoom()
	if !e.needsData() {
		return ""
	}
	for _, p := range e.Data.Pools {
		if !p.Ready || p.SizeBytes <= 0 {
			continue
		}
		switch {
		case p.AsOf == nil && p.FreeBytes*100 < p.SizeBytes*leastFree:
			e.fault(Error, subjectOf(p), fmt.Sprintf("the disk is almost full: %s of %s are free",
				output.Bytes(p.FreeBytes), output.Bytes(p.SizeBytes)),
				"find the largest volumes: kubectl hostpath top; delete what is not needed",
				"docs/operations.md#csihostpathdiskalmostfull")
		case p.AvailableBytes*100 < p.SizeBytes*leastAvailable:
			e.fault(Warning, subjectOf(p), fmt.Sprintf("only %s of %s are left for further volumes",
				output.Bytes(p.AvailableBytes), output.Bytes(p.SizeBytes)),
				"delete volumes or snapshots, add a disk, or raise overcommit",
				"docs/operations.md#csihostpathpoolalmostfull")
		}
	}
	return "every pool has room for further volumes"
}

// claimsBeyondRoom finds pending claims that are larger than what any node has.
func (e *examination) claimsBeyondRoom() {
	if !e.MayList("csistoragecapacities") || len(e.Capacities) == 0 {
		return
	}
	most := map[string]int64{}
	for _, c := range e.Capacities {
		most[c.StorageClassName] = max(most[c.StorageClassName], roomOf(c))
	}
	for _, c := range e.pending() {
		room, known := most[className(c)]
		if want := requested(c); known && want > room {
			e.fault(Error, claimName(c), fmt.Sprintf("asks for %s; no node has more than %s for class %s",
				output.Bytes(want), output.Bytes(room), className(c)), "ask for less, or make room",
				"docs/troubleshooting.md#how-much-room-there-is")
		}
	}
}

func roomOf(c *storage.CSIStorageCapacity) int64 {
	if c.MaximumVolumeSize != nil {
		return c.MaximumVolumeSize.Value()
	}
	if c.Capacity != nil {
		return c.Capacity.Value()
	}
	return 0
}

func (e *examination) purges() string {
	if !e.Installation.IsVisible() || !e.needsData() {
		return ""
	}
	for _, p := range e.Data.Pools {
		if p.PurgesFailing > 0 {
			e.fault(Warning, subjectOf(p), fmt.Sprintf("the data of %d deleted volumes or snapshots cannot "+
				"be removed", p.PurgesFailing), "look at the driver's log: Deleted data could not be purged",
				"docs/operations.md#csihostpathpurgefails")
		}
	}
	return "no purge fails"
}

// health finds volumes with faults, and damaged snapshots.
func (e *examination) health() string {
	if !e.Installation.IsVisible() || !e.needsData() {
		return ""
	}
	for _, v := range e.Data.Volumes {
		faults := v.Faults
		if v.Damaged && len(faults) == 0 {
			faults = []string{string(volume.FaultRecordDamaged)}
		}
		for _, fault := range faults {
			c, _ := e.conditions.OfFault(volume.Fault(fault))
			e.fault(Error, e.volumeName(v), fault+": "+c.What, c.Do, "docs/health.md#what-it-can-be")
		}
	}
	for _, s := range e.Data.Snapshots {
		if s.Damaged {
			c, _ := e.conditions.OfFault(volume.FaultRecordDamaged)
			e.fault(Error, "snapshot "+s.ID+" on node "+s.Node,
				string(volume.FaultRecordDamaged)+": "+c.What, c.Do, "docs/operations.md#repair-a-record")
		}
	}
	return "no volume has a fault"
}

// volumeName names a volume by its claim if the user may see that, else by its ID.
func (e *examination) volumeName(v status.Volume) string {
	if v.Git != nil {
		return "content of " + v.Git.URL + " on node " + v.Node
	}
	if pv := e.index.ByHandle(v.ID); pv != nil {
		return "volume " + pv.Name + " on node " + v.Node
	}
	return "volume " + v.ID + " on node " + v.Node
}

// orphans finds volumes and snapshots of pools that no object of Kubernetes names.
func (e *examination) orphans() string {
	if !e.Installation.IsVisible() || !e.needsData() || !e.needs("persistentvolumes") {
		return ""
	}
	for _, v := range e.Data.Volumes {
		if v.Inline || e.index.ByHandle(v.ID) != nil || e.Now.Sub(v.Created) < young {
			continue
		}
		e.fault(Warning, e.volumeName(v), "has no PersistentVolume: it takes "+
			output.Bytes(v.CapacityBytes)+", and nobody deletes it",
			"keep it with a PersistentVolume of its own, or delete it on its node",
			"docs/operations.md#volumes-that-kubernetes-has-forgotten")
	}
	e.orphanSnapshots()
	return "every volume has a PersistentVolume, and every snapshot a VolumeSnapshotContent"
}

// lostVolumes finds PersistentVolumes whose volume or node is not there.
func (e *examination) lostVolumes() string {
	if !e.needs("persistentvolumes", "nodes") {
		return ""
	}
	asked, there := e.askedPools()
	for _, pv := range e.Volumes {
		if !e.index.IsOurs(pv) {
			continue
		}
		if node := e.index.Node(pv); node != "" && e.nodeNames[node] == "" {
			e.fault(Error, "volume "+pv.Name, "its node "+node+" does not exist any more",
				"bring the node back, or give its volumes up",
				"docs/operations.md#a-node-or-a-disk-is-gone")
			continue
		}
		id, err := volume.ParseID(pv.Spec.CSI.VolumeHandle)
		if err == nil && asked[string(id.Pool())] && !there[id.String()] &&
			pv.DeletionTimestamp == nil && e.Now.Sub(pv.CreationTimestamp.Time) > young {
			e.fault(Error, "volume "+pv.Name, "its pool has no volume "+id.String(),
				"if it was deleted: kubectl hostpath undelete; else restore a snapshot or a backup",
				"docs/operations.md#take-a-deleted-volume-back")
		}
	}
	if e.Data == nil {
		return "the node of every PersistentVolume is there; the drivers were not asked for volumes"
	}
	return "the volume of every PersistentVolume is there"
}

// askedPools are the pools whose volumes are known, and those volumes.
func (e *examination) askedPools() (asked, there map[string]bool) {
	asked, there = map[string]bool{}, map[string]bool{}
	if e.Data == nil {
		return asked, there
	}
	missing := map[string]bool{}
	for _, m := range e.Data.Missing {
		missing[m.Node] = true
	}
	for _, p := range e.Data.Pools {
		asked[p.ID] = p.Ready && p.ID != "" && !missing[p.Node] && p.AsOf == nil
	}
	for _, v := range e.Data.Volumes {
		there[v.ID] = true
	}
	return asked, there
}
