package lifecycle

import "github.com/prometheus/client_golang/prometheus"

const namespace = "csi_hostpath"

// Metrics are those of the package. They implement prometheus.Collector.
type Metrics struct {
	placements, released, abandoned, abandonedSnapshots prometheus.Counter

	gone, orphans, unlinked *prometheus.GaugeVec
}

// NewMetrics returns metrics that count from 0.
func NewMetrics() *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: "controller", Name: name, Help: help,
		})
	}
	perNode := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Subsystem: "controller", Name: name, Help: help,
		}, []string{"node"})
	}
	return &Metrics{
		placements: counter("placements_total", "Claims that were given the node of their source. A "+
			"claim whose node has no room is counted each time."),
		released: counter("released_claims_total", "Claims that were deleted because their node was "+
			"deleted, as their class says."),
		abandoned: counter("abandoned_volumes_total", "PersistentVolumes that were deleted although "+
			"their data was not, because their node was deleted."),
		abandonedSnapshots: counter("abandoned_snapshots_total", "VolumeSnapshotContents that were given "+
			"up although their data was not deleted, because their node was deleted."),
		gone: perNode("gone_node_volumes", "PersistentVolumes whose Node object was deleted."),
		orphans: perNode("orphaned_volumes", "Volumes that external-provisioner has made and that "+
			"have no PersistentVolume."),
		unlinked: perNode("unlinked_nodes", "Nodes that are ready, and whose driver is not linked to "+
			"the leader: 1 for each."),
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.placements, m.released, m.abandoned, m.abandonedSnapshots, m.gone, m.orphans, m.unlinked,
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(to)
	}
}

// forgetNodes is for a process that leads no more: another one says what nodes have.
func (m *Metrics) forgetNodes() {
	m.gone.Reset()
	m.orphans.Reset()
	m.unlinked.Reset()
}
