// Package status has what the driver tells people about pools, volumes, snapshots, the trash and
// copies: the types of the JSON API below /api/v1, and the pages that show the same in a browser.
// It is read-only. Where the data comes from is a Source: the pools of a node, or all linked nodes.
//
// The API has these resources, all of them read with GET:
//
//	/api/v1/overview       Overview
//	/api/v1/nodes          List[Node]
//	/api/v1/pools          List[Pool]
//	/api/v1/volumes        List[Volume]
//	/api/v1/volumes/ID     Volume, with its use of the last day and its snapshots
//	/api/v1/snapshots      List[Snapshot]
//	/api/v1/trash          List[TrashEntry]
//	/api/v1/copies         List[Copy]
//
// A list takes the parameters of Query. A failure is an Error, with a status of HTTP. The types
// only gain fields: who reads them ignores fields that it does not know.
package status

import (
	"strings"
	"time"
)

// Path is where the API begins.
const Path = "/api/v1/"

// The parameters of a list, in the query of its URL.
const (
	ParamNode      = "node"      // only what is on the node with that name
	ParamPool      = "pool"      // only what is in pools with that name
	ParamNamespace = "namespace" // only volumes of claims, inline volumes and snapshots of there
	ParamVolume    = "volume"    // only snapshots of the volume with that ID
	ParamLimit     = "limit"     // how many items at most: 1 to MaxLimit, DefaultLimit if absent
	ParamAfter     = "after"     // Next of the list before
)

// How many items a list has.
const (
	DefaultLimit = 100
	MaxLimit     = 500
)

// List is a part of a list. It may have fewer items than were asked for, or none, and still have a
// next part: only an empty Next is the end.
type List[T any] struct {
	Items []T `json:"items"`
	// Next is the ParamAfter of the next part. Empty: there is none.
	Next string `json:"next,omitempty"`
	// Missing says of which nodes and pools items may be absent, and why.
	Missing []Missing `json:"missing,omitempty"`
}

// Missing is a node or a pool that could not be asked.
type Missing struct {
	Node string `json:"node"`
	// Pool is empty if it is the whole node.
	Pool string `json:"pool,omitempty"`
	// Reason is a sentence for people, without paths of the node.
	Reason string `json:"reason"`
}

// Error is the body of an answer that failed.
type Error struct {
	Error string `json:"error"`
}

// Deployment says who answers.
type Deployment string

// The deployments.
const (
	Central        Deployment = "central" // the controller, for all nodes
	NodeDeployment Deployment = "node"    // a driver, for its own node
)

// Overview is all at a glance. In central deployment it is what the nodes have pushed, without a
// question to any of them. Sizes are in bytes.
type Overview struct {
	Deployment Deployment `json:"deployment"`
	// DriverName is that of the CSI driver, and Version the one of the program that answers.
	DriverName string    `json:"driverName"`
	Version    string    `json:"version"`
	Time       time.Time `json:"time"`
	// Nodes are those that are linked or should be, and NodesLinked those that are. In node deployment
	// both are 1: the driver knows its own node only.
	Nodes       int `json:"nodes"`
	NodesLinked int `json:"nodesLinked"`
	// Pools are those of linked nodes, and PoolsReady those that can be used.
	Pools      int `json:"pools"`
	PoolsReady int `json:"poolsReady"`
	// SizeBytes is that of the filesystems of pools that can be used, and AvailableBytes what further
	// volumes may have of them.
	SizeBytes        int64 `json:"sizeBytes"`
	AvailableBytes   int64 `json:"availableBytes"`
	Volumes          int64 `json:"volumes"`
	Snapshots        int64 `json:"snapshots"`
	UnhealthyVolumes int64 `json:"unhealthyVolumes"`
}

// Add counts a pool. What one that cannot be used has is not known.
func (o *Overview) Add(p Pool) {
	o.Pools++
	o.UnhealthyVolumes += p.UnhealthyVolumes
	if !p.Ready {
		return
	}
	o.PoolsReady++
	o.SizeBytes += p.SizeBytes
	o.AvailableBytes += p.AvailableBytes
	o.Volumes += p.Volumes
	o.Snapshots += p.Snapshots
}

// Node is a node, and whether it is linked to the controller that answers. In node deployment there
// is one, and it is linked.
type Node struct {
	Name   string `json:"name"`
	Linked bool   `json:"linked"`
	// Since is since when the node is linked, or is not.
	Since time.Time `json:"since"`
	// Why says why the node is not linked.
	Why string `json:"why,omitempty"`
	// DriverVersion is that of the node's driver; empty: not linked.
	DriverVersion string `json:"driverVersion,omitempty"`
	// Pools are those that the node has pushed last, with less than in the list of pools: AsOf.
	Pools []Pool `json:"pools,omitempty"`
}

// Pool is a pool of a node. Sizes are in bytes. Those of a pool that is not ready are not known.
type Pool struct {
	Node string `json:"node"`
	// Name is the pool's in the configuration of its node, and ID the one in the IDs of its volumes:
	// 12 hex digits. ID is empty while the pool has not been open.
	Name string `json:"name"`
	ID   string `json:"id,omitempty"`
	// IsDefault: classes without a pool mean this one. Optional: the node is complete without it.
	IsDefault bool `json:"isDefault,omitempty"`
	Optional  bool `json:"optional,omitempty"`
	// Ready: the pool can be used. Reason says in a word why not (volume.Reason).
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
	// Filesystem is how the driver uses it: btrfs, projquota (XFS and ext4) or plain (no quotas).
	Filesystem string `json:"filesystem,omitempty"`
	// EnforcesSizes: a directory of the pool cannot grow beyond its volume's size.
	EnforcesSizes bool `json:"enforcesSizes"`
	// NoExec: no program can be started from the pool's volumes.
	NoExec bool `json:"noExec,omitempty"`
	// Of the filesystem; UsedBytes is by volumes and by others.
	SizeBytes int64 `json:"sizeBytes"`
	UsedBytes int64 `json:"usedBytes"`
	FreeBytes int64 `json:"freeBytes"`
	// AvailableBytes is what the next volume may have at most.
	AvailableBytes int64 `json:"availableBytes"`
	// CommittedBytes is promised to volumes and snapshots, and SnapshotBytes the part of snapshots.
	CommittedBytes int64 `json:"committedBytes"`
	SnapshotBytes  int64 `json:"snapshotBytes"`
	// TrashBytes was promised to what is deleted and not purged.
	TrashBytes int64 `json:"trashBytes"`
	Volumes    int64 `json:"volumes"`
	Snapshots  int64 `json:"snapshots"`
	// TrashEntries are those of the list of the trash, and PurgesFailing those whose purge failed.
	TrashEntries  int64 `json:"trashEntries"`
	PurgesFailing int64 `json:"purgesFailing"`
	Copies        int64 `json:"copies"`
	// UnhealthyVolumes have faults; all volumes of a pool that was open and cannot be used.
	UnhealthyVolumes int64 `json:"unhealthyVolumes"`
	// Faults has the number of volumes with each fault (volume.Fault).
	Faults map[string]int64 `json:"faults,omitempty"`
	// Use is UsedBytes over the last day, the oldest first, as far as the driver has run.
	Use []Sample `json:"use,omitempty"`
	// GrowthBytesPerDay is how much UsedBytes grew within a day, from Use: negative if it shrank, nil
	// if Use is of less than an hour.
	GrowthBytesPerDay *int64 `json:"growthBytesPerDay,omitempty"`
	// AsOf is set if the node was not asked: the pool is as the node has pushed it last, and only
	// Name, ID, Ready, Reason, SizeBytes, AvailableBytes, EnforcesSizes and the numbers of volumes,
	// of snapshots and of unhealthy volumes are known.
	AsOf *time.Time `json:"asOf,omitempty"`
}

// Sample is a use that was measured.
type Sample struct {
	Time  time.Time `json:"time"`
	Bytes int64     `json:"bytes"`
}

// ObjectName is the name of an object of Kubernetes. Whoever made the volume has said it.
type ObjectName struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Volume is a volume of a pool. Sizes are in bytes.
type Volume struct {
	ID   string `json:"id"`
	Node string `json:"node"`
	// Pool is the pool's name in the configuration of its node.
	Pool string `json:"pool"`
	// Name is what the caller of CreateVolume chose: the name of the PersistentVolume.
	Name string `json:"name"`
	// Claim is the claim that the volume was made for. nil: it was not said, or the volume lives with
	// its pod.
	Claim *ObjectName `json:"claim,omitempty"`
	// Inline: the volume lives with its pod, or with all pods that share its content of git.
	Inline bool `json:"inline,omitempty"`
	// Pods are those to which the volume is published.
	Pods []Pod `json:"pods,omitempty"`
	// Kind is what pods see, and what holds it.
	Kind Kind `json:"kind"`
	// CapacityBytes was promised.
	CapacityBytes int64 `json:"capacityBytes"`
	// UsedBytes and UsedInodes are what the volume holds. nil: nobody counts them (no quotas, or no
	// limit of inodes), or the disk did not say. Of an image that is published UsedBytes is what its
	// filesystem holds, as kubelet has asked last; of another one, what its file occupies.
	UsedBytes  *int64 `json:"usedBytes,omitempty"`
	UsedInodes *int64 `json:"usedInodes,omitempty"`
	// EnforcesSize: the volume cannot grow beyond its size.
	EnforcesSize bool      `json:"enforcesSize"`
	Created      time.Time `json:"created"`
	// Source is the ID of the volume or the snapshot that the volume was made from.
	Source string `json:"source,omitempty"`
	// Git is what a volume of Kind git shows; nil: it has another kind.
	Git *Git `json:"git,omitempty"`
	// Damaged: the record cannot be used. Only ID, Node and Pool are known.
	Damaged bool `json:"damaged,omitempty"`
	// Faults are what is wrong with the volume (volume.Fault).
	Faults []string `json:"faults,omitempty"`
	// TrashRetentionSeconds is how long the volume can be restored once it is deleted. nil: as long as
	// its pool says.
	TrashRetentionSeconds *int64 `json:"trashRetentionSeconds,omitempty"`
	// GrowthBytesPerDay is as that of a pool, of the samples that kubelet's questions have left.
	GrowthBytesPerDay *int64 `json:"growthBytesPerDay,omitempty"`
	// Use is the use of the last day while the volume was published, the oldest first. A list has
	// none.
	Use []Sample `json:"use,omitempty"`
	// Snapshots are the first DefaultLimit of the volume's. A list has none.
	Snapshots []Snapshot `json:"snapshots,omitempty"`
	// PersistentVolume is what the API server has of the volume, as far as the program that answers
	// knows it. nil: unknown. In central deployment only the leader knows it.
	PersistentVolume *PersistentVolume `json:"persistentVolume,omitempty"`
}

// Git is content of a git repository.
type Git struct {
	// URL has no user.
	URL string `json:"url"`
	// Ref is the branch, tag or commit that pods ask for, and Commit what they see, in hex. Empty:
	// after a start of the driver no pod has asked for it yet.
	Ref    string `json:"ref,omitempty"`
	Commit string `json:"commit,omitempty"`
	// Fetched is when the last fetch has succeeded. Zero: none has since the start of the driver.
	Fetched time.Time `json:"fetched,omitzero"`
}

// ShortCommit is the begin of the commit, for people.
func (g Git) ShortCommit() string {
	const digits = 12
	return strings.ToValidUTF8(g.Commit[:min(len(g.Commit), digits)], "")
}

// PersistentVolume says what became of the object of a volume.
type PersistentVolume struct {
	Exists   bool `json:"exists"`
	Released bool `json:"released,omitempty"` // its claim is gone
}

// Kind is what pods see of a volume, and what holds it.
type Kind string

// The kinds.
const (
	Directory Kind = "directory"
	File      Kind = "file"
	Image     Kind = "image" // a filesystem in an image
	Block     Kind = "block" // a raw block volume
	GitTree   Kind = "git"   // a directory with content of git, which pods share
)

// Pod is a pod of the node to which a volume is published.
type Pod struct {
	UID string `json:"uid"`
	// Namespace and Name are empty if the driver was restarted since the volume was published.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// Snapshot is a snapshot of a pool. Sizes are in bytes.
type Snapshot struct {
	ID   string `json:"id"`
	Node string `json:"node"`
	Pool string `json:"pool"`
	Name string `json:"name"`
	// Volume is the ID of the volume that it is of, which may be gone.
	Volume string `json:"volume"`
	// Snapshot is the VolumeSnapshot that it was taken for. nil: it was not said.
	Snapshot *ObjectName `json:"volumeSnapshot,omitempty"`
	// Group is the name of the group snapshot that it is of; empty: it was taken alone.
	Group string `json:"group,omitempty"`
	// RestoreBytes is the least size of a volume made of it, and HeldBytes what it may occupy.
	RestoreBytes int64     `json:"restoreBytes"`
	HeldBytes    int64     `json:"heldBytes"`
	Created      time.Time `json:"created"`
	// Damaged: the record cannot be used. Only ID, Node and Pool are known.
	Damaged bool `json:"damaged,omitempty"`
}

// TrashEntry is a volume or a snapshot that was deleted and is not purged. Sizes are in bytes. The
// list is in the order in which entries of a pool will be purged.
type TrashEntry struct {
	Node string `json:"node"`
	Pool string `json:"pool"`
	// Entry is the entry's name in the trash of its pool: what an undelete takes.
	Entry string `json:"entry"`
	// ID is the one that the volume or snapshot had. Empty: it was never finished.
	ID string `json:"id,omitempty"`
	// IsSnapshot: it was a snapshot.
	IsSnapshot bool `json:"isSnapshot,omitempty"`
	// Claim is the claim that a volume was made for, if its record says so.
	Claim *ObjectName `json:"claim,omitempty"`
	// CapacityBytes is a volume's size, IsBlock whether it was a raw block volume, and
	// PersistentVolume the one that it was made for, if its record says so. CapacityBytes is 0: the
	// driver of the node is older than these fields, or the record cannot be read.
	CapacityBytes    int64  `json:"capacityBytes,omitempty"`
	IsBlock          bool   `json:"isBlock,omitempty"`
	PersistentVolume string `json:"persistentVolume,omitempty"`
	// PromisedBytes come back when it is purged.
	PromisedBytes int64      `json:"promisedBytes"`
	Deleted       time.Time  `json:"deleted"`
	State         TrashState `json:"state"`
	// PurgedAfter is when its retention ends, and LeftSeconds how long that is from now: 0 when it has
	// ended. Of a purge that failed it is when the next one begins.
	PurgedAfter time.Time `json:"purgedAfter"`
	LeftSeconds int64     `json:"leftSeconds"`
}

// TrashState says what becomes of an entry.
type TrashState string

// The states.
const (
	Retained TrashState = "retained" // it is whole, and can be restored by hand
	Purging  TrashState = "purging"  // its data is being removed, or will be
	Failing  TrashState = "failing"  // its data could not be removed; the driver tries again
)

// Copy is a snapshot, a restore or a clone that is being made. Sizes are in bytes.
type Copy struct {
	Node string `json:"node"`
	Pool string `json:"pool"`
	// What is what is being made: "volume ID", "snapshot ID" or "group snapshot ID".
	What  string    `json:"what"`
	Began time.Time `json:"began"`
	// CopiedBytes and CopiedFiles are what was copied so far.
	CopiedBytes int64 `json:"copiedBytes"`
	CopiedFiles int64 `json:"copiedFiles"`
	// Source is the ID of what is copied. Empty: several.
	Source string `json:"source,omitempty"`
	// TotalBytes is about how much is to be copied: what the source occupies. nil: nobody counts that.
	TotalBytes *int64 `json:"totalBytes,omitempty"`
}
