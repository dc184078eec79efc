package lifecycle

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Orphan is a volume that external-provisioner has made, and that has no PersistentVolume.
type Orphan struct {
	// Dir is the volume's directory in its pool: the name that its PersistentVolume had.
	Dir string
	// Pool is the pool's name. Empty: the pool could not be used when the volume was found.
	Pool, Node string
	// Since is when this process saw that first.
	Since time.Time
}

// GoneVolume is a PersistentVolume whose Node object was deleted.
type GoneVolume struct {
	Name string
	// Node is the node's name or, if that is long, its topology value.
	Node string
	// Since is the time of the deletion as the volume is marked. Zero: it is not marked.
	Since time.Time
	// Claimed says that the claim exists that the volume is for.
	Claimed bool
}

// VolumeObject is what the API server has of a volume.
type VolumeObject struct {
	// ClaimNamespace and Claim are the claim that the PersistentVolume is for. Empty: none.
	ClaimNamespace, Claim string
	Released              bool // the claim is gone
}

// VolumeObject finds the PersistentVolume of a volume by its volume handle. known is false if there
// is none and the volume is none of Orphans: its object may come yet. It is also false if this
// process has not read all PersistentVolumes.
func (c *Controller) VolumeObject(id string) (o VolumeObject, exists, known bool) {
	if !c.cluster.volumes.HasSynced() {
		return o, false, false
	}
	objects := indexed[*persistentVolume](c.cluster.volumes, byHandle, id)
	if len(objects) == 0 {
		return o, false, c.isOrphan(id)
	}
	v := objects[0]
	// Of several the one counts that a claim still has.
	if i := slices.IndexFunc(objects, func(v *persistentVolume) bool { return !v.released }); i >= 0 {
		v = objects[i]
	}
	o.ClaimNamespace, o.Claim, _ = strings.Cut(v.claim, "/")
	o.Released = v.released
	return o, true, true
}

func (c *Controller) isOrphan(id string) bool {
	if c.orphans == nil {
		return false
	}
	c.orphans.mu.Lock()
	defer c.orphans.mu.Unlock()
	return c.orphans.ids[id]
}

// Orphans are those of the last comparison, by node, pool and directory. The caller must not change
// the list.
func (c *Controller) Orphans() []Orphan {
	if c.orphans == nil {
		return nil
	}
	c.orphans.mu.Lock()
	defer c.orphans.mu.Unlock()
	return c.orphans.list
}

// GoneVolumes are the volumes of nodes that were deleted, by node and name.
func (c *Controller) GoneVolumes() (list []GoneVolume) {
	if c.gone == nil {
		return nil
	}
	for _, value := range c.cluster.volumes.GetIndexer().ListIndexFuncValues(byNode) {
		if !c.gone.isGone(value) {
			continue
		}
		for _, v := range indexed[*persistentVolume](c.cluster.volumes, byNode, value) {
			gone := GoneVolume{Name: v.Name, Node: value}
			if since, err := time.Parse(time.RFC3339, v.goneSince); err == nil {
				gone.Since = since
			}
			_, gone.Claimed = c.gone.claimOf(v)
			list = append(list, gone)
		}
	}
	slices.SortFunc(list, func(a, b GoneVolume) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name))
	})
	return list
}
