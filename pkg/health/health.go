// Package health has the adverse conditions of volumes and pools, as CSI and Kubernetes have them:
// one table says for each its status, its reason, and a message with the remedy.
package health

import (
	"cmp"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Kubernetes refuses a status with more conditions, or with longer messages, in bytes
// (pkg/apis/storage/validation/validation.go and pkg/volume/csi/csi_client.go of v1.37).
const (
	maxConditions = 16
	maxMessage    = 1024
)

// Condition is something adverse about a volume or a pool.
type Condition struct {
	Status csi.VolumeHealthErrorType
	// Reason is a word in CamelCase.
	Reason string
	// Message is for people. It has no path of the node, because every user of the claim may read it.
	Message string
}

// OfVolume is the condition of a volume with a fault. A fault that this version does not know is a
// condition too: a node may be newer than the controller.
func OfVolume(f volume.Fault) Condition {
	if c, ok := volumeTable[f]; ok {
		return c
	}
	return Condition{degraded, "Unhealthy", "The log of the node's driver says what is wrong."}
}

// OfPool is the condition of the volumes of a pool that cannot be used.
func OfPool(r volume.Reason, names ...string) Condition {
	c, ok := poolTable[r]
	if !ok {
		c = poolTable[volume.ReasonOther]
	}
	noun := "Pool "
	if len(names) > 1 {
		noun = "Each of the pools "
	}
	c.Message = clip(noun+strings.Join(names, ", ")) + ": " + c.Message
	return c
}

// OfNode is the condition of a node that can have no volumes.
func OfNode(r volume.Reason) Condition {
	if c, ok := nodeTable[r]; ok {
		return c
	}
	return Condition{inaccessible, "NodeUnusable", "The node can have no volumes. " +
		"The log of its driver says why."}
}

// clip leaves room for what a message says about pools.
func clip(names string) string { return volume.Clip(names, maxMessage/2) }

// Pool is a configured pool, as far as its volumes' health depends on it.
type Pool struct {
	Name string
	// Pool is the pool, also when it is closed because its disk is no longer there: then only what it
	// has in memory may be asked for. nil: it has not been open since the start.
	Pool *pool.Pool
	// Reason is why it cannot be used; empty: it can.
	Reason volume.Reason
	// IsOptional: the pool was not open since the start, and need not be there.
	IsOptional bool
}

// Conditions are those that a pool gives to all its volumes.
func (p Pool) Conditions() []Condition {
	if p.Reason == "" {
		return nil
	}
	return []Condition{OfPool(p.Reason, p.Name)}
}

// Of are the conditions of volumes with these faults.
func Of(faults []volume.Fault) []Condition {
	conditions := make([]Condition, 0, len(faults))
	for _, f := range faults {
		conditions = append(conditions, OfVolume(f))
	}
	return conditions
}

// Message is the health of a volume. No two entries have the same status and reason (CSI spec,
// VolumeHealthEntry).
func Message(handle string, conditions []Condition) *csi.VolumeHealth {
	health := &csi.VolumeHealth{VolumeId: handle}
	for _, c := range inOrder(conditions) {
		health.HealthStatuses = append(health.HealthStatuses,
			&csi.VolumeHealth_VolumeHealthEntry{Status: c.Status, Reason: c.Reason, Message: c.Message})
	}
	return health
}

// inOrder removes what is there twice. The worst come first.
func inOrder(conditions []Condition) []Condition {
	all := slices.SortedFunc(slices.Values(conditions), func(a, b Condition) int {
		return cmp.Or(cmp.Compare(b.Status, a.Status), cmp.Compare(a.Reason, b.Reason))
	})
	all = slices.CompactFunc(all, func(a, b Condition) bool {
		return a.Status == b.Status && a.Reason == b.Reason
	})
	return all[:min(len(all), maxConditions)]
}

// Storage is the health of a node's pools, and of the node. Pools that cannot be used for the same
// reason share an entry.
func Storage(
	pools []Pool, node []volume.Reason,
) (all []*csi.NodeGetStorageHealthResponse_StorageBackendHealth) {
	names := map[volume.Reason][]string{}
	for _, p := range pools {
		if p.Reason != "" && p.Reason != volume.ReasonOpening && !p.IsOptional {
			names[p.Reason] = append(names[p.Reason], p.Name)
		}
	}
	var conditions []Condition
	for reason, of := range names {
		conditions = append(conditions, OfPool(reason, of...))
	}
	for _, reason := range node {
		conditions = append(conditions, OfNode(reason))
	}
	for _, c := range inOrder(conditions) {
		all = append(all, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{
			Status: storageStatus(c.Status), Reason: c.Reason, Message: c.Message,
		})
	}
	return all
}

func storageStatus(of csi.VolumeHealthErrorType) csi.StorageHealthErrorType {
	if of == degraded {
		return csi.StorageHealthErrorType_STORAGE_DEGRADED
	}
	return csi.StorageHealthErrorType_STORAGE_UNREACHABLE
}
