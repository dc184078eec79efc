package lifecycle

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// orphanInterval is how often the volumes of all nodes are compared with the PersistentVolumes.
const orphanInterval = 10 * time.Minute

// suspectInterval is when they are compared again if some have none for the first time, or nobody
// has looked yet: until then nodes link themselves, and objects of new volumes arrive. A minute,
// and less for an operator who gives up the volumes of deleted nodes within minutes.
func suspectInterval(gone time.Duration) time.Duration { return max(gone, 10*time.Second) }

// provisioned is the directory of a volume that external-provisioner has made for a claim
// (makeVolumeName). The others belong to pods (inline volumes), or somebody has made them by hand.
var provisioned = regexp.MustCompile(`^pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// orphans reports the volumes that no PersistentVolume names any more: a node came back after its
// volumes were given up, or somebody has removed a finalizer. Nobody but a person deletes them.
type orphans struct {
	cluster *cluster
	nodes   Nodes
	metrics *Metrics
	soon    time.Duration // suspectInterval
	// suspected were orphans in the last pass, by volume ID. Only in the second pass a volume is an
	// orphan: the object of a new volume comes after the volume.
	suspected map[string]suspect

	mu   sync.Mutex
	list []Orphan        // of the last pass
	ids  map[string]bool // their volume IDs
}

// suspect is a volume that had no PersistentVolume in the last pass.
type suspect struct {
	since    time.Time // when that was seen first
	reported bool
}

// run works until ctx is done. The informers must have synced.
func (o *orphans) run(ctx context.Context) {
	timer := time.NewTimer(o.soon)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(o.look(ctx))
	}
}

// look compares once, and returns when to compare again. A node that is not linked has no orphans
// for now.
func (o *orphans) look(ctx context.Context) (again time.Duration) {
	again = orphanInterval
	logger := klog.FromContext(ctx)
	known := map[string]bool{}
	for _, object := range o.cluster.volumes.GetStore().List() {
		if v, ok := object.(*persistentVolume); ok && v.ours {
			known[v.handle] = true
		}
	}
	suspected := map[string]suspect{}
	var list []Orphan
	ids := map[string]bool{}
	for v, err := range o.nodes.Volumes(ctx) {
		if err != nil {
			logger.Info("Not all volumes are compared with their objects", "err", err.Error())
			continue
		}
		id, err := volume.ParseID(v.ID)
		if err != nil || known[v.ID] || !provisioned.MatchString(id.Dir()) {
			continue
		}
		seen, before := o.suspected[v.ID]
		if !before {
			suspected[v.ID] = suspect{since: time.Now()}
			again = o.soon
			continue
		}
		suspected[v.ID] = suspect{since: seen.since, reported: true}
		ids[v.ID] = true
		list = append(list, Orphan{
			Dir: id.Dir(), Pool: o.poolName(id.Pool()), Node: v.Node, Since: seen.since,
		})
		if !seen.reported {
			logger.Info("A volume has no PersistentVolume: nothing uses it, and nothing deletes it",
				"volumeID", v.ID, "node", v.Node)
		}
	}
	o.suspected = suspected
	o.report(list, ids)
	return again
}

// poolName is empty if the pool cannot be used just now.
func (o *orphans) poolName(id volume.PoolID) string {
	p, _ := o.nodes.Pool(id)
	return p.Name
}

// report keeps what a pass has found, for the metrics and for people.
func (o *orphans) report(list []Orphan, ids map[string]bool) {
	count := map[string]int{}
	for _, orphan := range list {
		count[orphan.Node]++
	}
	o.metrics.orphans.Reset()
	for name, n := range count {
		o.metrics.orphans.WithLabelValues(name).Set(float64(n))
	}
	slices.SortFunc(list, func(a, b Orphan) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Dir, b.Dir))
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list, o.ids = list, ids
}
