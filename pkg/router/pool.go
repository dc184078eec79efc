package router

import (
	"strings"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/capability"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// What is kept of what a node pushes; a configuration has no more (pkg/config).
const (
	maxPools     = 256
	maxTextBytes = 128
)

// poolState is what a node has pushed of one of its pools. The fleet's lock guards it.
type poolState struct {
	name      string
	isDefault bool
	id        volume.PoolID // empty while the pool has not been open
	uuid      string
	notReady  string // why it cannot be used
	optional  bool
	refused   bool // another node has it

	size           int64 // bytes of the filesystem
	available      int64 // bytes that the next volume may have
	allowMultiNode bool
	limitsInodes   bool
	enforcesSizes  bool
	volumes        int64
	snapshots      int64
	entries        int64 // volumes or snapshots, whichever are more

	unhealthyVolumes int64             // how many have adverse conditions
	unhealthy        []UnhealthyVolume // those with faults of their own, not all if they are many

	placed   *placed
	reported int64 // see report
}

// placed are the bytes of volumes for which the router has chosen a pool.
type placed struct {
	coming  int64     // of volumes that are being made
	arrived int64     // of volumes that are made, and may not be in the pushed room yet
	last    time.Time // when the last one was made
}

// newPool reads what a node has pushed. It carries over what the router itself knows of the pool
// from those that the node had before.
func newPool(pushed *linkpb.Pool, before []*poolState) *poolState {
	p := &poolState{
		placed:         &placed{},
		name:           clip(pushed.GetName()),
		isDefault:      pushed.GetIsDefault(),
		uuid:           clip(pushed.GetUuid()),
		notReady:       clip(pushed.GetNotReady()),
		optional:       pushed.GetOptional(),
		size:           max(0, pushed.GetSizeBytes()),
		available:      max(0, pushed.GetAvailableBytes()),
		allowMultiNode: pushed.GetAllowMultiNode(),
		limitsInodes:   pushed.GetLimitsInodes(),
		enforcesSizes:  pushed.GetEnforcesSizes(),
		volumes:        max(0, pushed.GetVolumes()),
		snapshots:      max(0, pushed.GetSnapshots()),
		entries:        max(0, pushed.GetVolumes(), pushed.GetSnapshots()),
	}
	// A UUID that is none names no pool.
	digits := strings.ReplaceAll(p.uuid, "-", "")
	if id, err := volume.ParsePoolID(digits[:min(len(digits), 12)]); err == nil {
		p.id = id
	}
	p.unhealthyVolumes = max(0, pushed.GetUnhealthyVolumes())
	p.unhealthy = newUnhealthy(p.id, pushed.GetUnhealthy())
	for _, b := range before {
		if b.name == p.name {
			p.placed, p.reported = b.placed, b.reported
			p.placed.arrived = 0
		}
	}
	p.report(granularity(pushed.GetSizeBytes()))
	return p
}

// clip bounds a text of a node.
func clip(s string) string { return volume.Clip(s, maxTextBytes) }

func (p *poolState) isReady() bool { return p.notReady == "" && !p.refused }

// isOf says whether a class that names a pool, or none, means this one.
func (p *poolState) isOf(class string) bool {
	return p.name == class || class == "" && p.isDefault
}

// Enforces implements volume.Enforcer.
func (p *poolState) Enforces() bool { return p.enforcesSizes }

// AllowMultiNode implements what capability.CheckNodes asks.
func (p *poolState) AllowMultiNode() bool { return p.allowMultiNode }

// largest is the size of the largest volume that could be made for a class if the pool had so much
// room, as pool.Largest has it; 0 is none.
func (p *poolState) largest(class request.Capacity, room int64) int64 {
	switch {
	case !p.isReady(),
		class.Spec.Inodes != 0 && !p.limitsInodes,
		capability.CheckNodes(p, class.Access...) != nil:
		return 0
	}
	return class.Spec.DecideFor(p).Largest(room)
}

// room is what is left for further volumes.
func (p *poolState) room() int64 {
	taken := p.placed.coming
	// Nothing is pushed if the volume had been made before.
	if time.Since(p.placed.last) < patience {
		taken += p.placed.arrived
	}
	return max(0, p.available-taken)
}

// poolOf is the node's pool for a class; nil if it has none. The fleet's lock is held.
func (n *node) poolOf(class string) *poolState {
	for _, p := range n.pools {
		if p.isOf(class) {
			return p
		}
	}
	return nil
}
