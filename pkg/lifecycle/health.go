package lifecycle

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"

	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Reasons of events.
const (
	reasonUnhealthy = "VolumeUnhealthy"
	reasonHealthy   = "VolumeHealthy"
)

const (
	// healthInterval is the time between two looks at what the nodes have pushed.
	healthInterval = 10 * time.Second
	// maxEventsAtOnce bounds the events of one look: a dead disk may have thousands of volumes. The
	// owners of the others are told after the next looks.
	maxEventsAtOnce = 50
	// maxEventBytes is less than the API server takes (1 KiB).
	maxEventBytes = 1000
)

// PoolHealth is what a linked node says of the health of a pool.
type PoolHealth struct {
	Name string
	ID   volume.PoolID
	// NotReady is why the pool cannot be used; empty: it can.
	NotReady volume.Reason
	// Faults are those of the volumes that have any, by volume ID.
	Faults map[string][]volume.Fault
}

// unhealthy tells the owners of claims what is wrong with their volumes, once for each change. It
// asks no node: the nodes push what they know.
type unhealthy struct {
	cluster  *cluster
	nodes    Nodes
	recorder record.EventRecorder
	// sent has the reasons of the last events, by pool and volume ID. What a node that is not linked
	// has said before stays.
	sent map[volume.PoolID]map[string]string
	// references are the faults of volumes that are in no pool, by node and volume ID. sentReferences
	// has the reasons of the last events of those, by volume ID.
	references     map[string]map[string][]volume.Fault
	sentReferences map[string]string
}

// run works until ctx is done. The informers must have synced.
func (u *unhealthy) run(ctx context.Context) {
	wait.UntilWithContext(ctx, func(context.Context) {
		left := maxEventsAtOnce
		for _, p := range u.nodes.Health() {
			left = u.look(p, left)
		}
		u.lookAtReferences(u.nodes.References(), left)
	}, healthInterval)
}

// lookAtReferences does the same for volumes that are in no pool. One that several nodes show is
// healthy when none of them has a fault any more.
func (u *unhealthy) lookAtReferences(pushed map[string]map[string][]volume.Fault, most int) {
	maps.Copy(u.references, pushed)
	maps.DeleteFunc(u.references, func(name string, _ map[string][]volume.Fault) bool {
		_, isLinked := pushed[name]
		_, hasObject := get[*node](u.cluster.nodes, name)
		return !isLinked && !hasObject // the node was deleted
	})
	now := map[string][]volume.Fault{}
	for handle := range u.sentReferences {
		now[handle] = nil
	}
	for _, ofNode := range u.references {
		for handle, faults := range ofNode {
			all := slices.Sorted(slices.Values(append(slices.Clone(now[handle]), faults...)))
			now[handle] = slices.Compact(all)
		}
	}
	for _, handle := range slices.Sorted(maps.Keys(now)) {
		conditions := health.Of(now[handle])
		reasons := reasonsOf(conditions)
		if reasons == u.sentReferences[handle] {
			continue
		}
		if most <= 0 {
			return
		}
		for _, v := range indexed[*persistentVolume](u.cluster.volumes, byHandle, handle) {
			if u.tell(v, conditions) {
				most--
			}
		}
		if u.sentReferences[handle] = reasons; reasons == "" {
			delete(u.sentReferences, handle)
		}
	}
}

// look compares the health of a pool's volumes with what their owners have been told. It tells so
// many of them at most, and returns how many more may be told.
func (u *unhealthy) look(p PoolHealth, most int) (left int) {
	before := u.sent[p.ID]
	if p.NotReady == volume.ReasonOpening ||
		p.NotReady == "" && len(p.Faults) == 0 && len(before) == 0 {
		return most
	}
	now := map[string]string{}
	for _, v := range indexed[*persistentVolume](u.cluster.volumes, byPool, string(p.ID)) {
		if !v.ours {
			continue
		}
		conditions := p.conditionsOf(v.handle)
		reasons := reasonsOf(conditions)
		if reasons != before[v.handle] {
			if most == 0 {
				reasons = before[v.handle]
			} else if u.tell(v, conditions) {
				most--
			}
		}
		if reasons != "" {
			now[v.handle] = reasons
		}
	}
	if delete(u.sent, p.ID); len(now) > 0 {
		u.sent[p.ID] = now
	}
	return most
}

func (p PoolHealth) conditionsOf(handle string) []health.Condition {
	pool := health.Pool{Name: p.Name, Reason: p.NotReady}
	return append(pool.Conditions(), health.Of(p.Faults[handle])...)
}

func reasonsOf(conditions []health.Condition) string {
	reasons := make([]string, 0, len(conditions))
	for _, c := range conditions {
		reasons = append(reasons, c.Reason)
	}
	return strings.Join(reasons, ",")
}

// tell sends an event, if the volume has its claim.
func (u *unhealthy) tell(v *persistentVolume, conditions []health.Condition) bool {
	c, ok := get[*claim](u.cluster.claims, v.claim)
	if !ok || c.UID != v.claimUID {
		return false
	}
	if len(conditions) == 0 {
		u.recorder.Event(reference(claimKind, c), corev1.EventTypeNormal, reasonHealthy,
			"Nothing is known to be wrong with the volume any more.")
		return true
	}
	texts := make([]string, 0, len(conditions))
	for _, one := range conditions {
		texts = append(texts, one.Reason+": "+one.Message)
	}
	text := volume.Clip(strings.Join(texts, " "), maxEventBytes)
	u.recorder.Event(reference(claimKind, c), corev1.EventTypeWarning, reasonUnhealthy, text)
	return true
}
