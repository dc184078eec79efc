package lifecycle

import (
	"context"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// unlinkedInterval is how often the links are looked at.
const unlinkedInterval = time.Minute

// unlinked counts the nodes that should be linked and are not: those that were linked within a day
// or have volumes. A node that is not ready, or has no Node object, is another matter.
type unlinked struct {
	cluster *cluster
	nodes   Nodes
	metrics *Metrics
}

// run works until ctx is done. The informers must have synced. Nodes link themselves meanwhile: the
// first look is later.
func (u *unlinked) run(ctx context.Context) {
	later(ctx, unlinkedInterval, u.look)
}

func (u *unlinked) look() {
	values := u.cluster.volumes.GetIndexer().ListIndexFuncValues(byNode)
	for _, name := range u.nodes.Unlinked() {
		values = append(values, volume.TopologyValue(name))
	}
	u.metrics.unlinked.Reset()
	for _, value := range values {
		for _, n := range indexed[*node](u.cluster.nodes, byValue, value) {
			if n.ready && !u.nodes.IsLinked(value) {
				u.metrics.unlinked.WithLabelValues(n.Name).Set(1)
			}
		}
	}
}
