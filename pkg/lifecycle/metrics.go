package lifecycle

import "github.com/prometheus/client_golang/prometheus"

const namespace = "csi_hostpath"

// metrics are those of the package.
type metrics struct {
	placements prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		placements: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: "controller", Name: "placements_total",
			Help: "Claims that were given the node of their source. A claim whose node has no room is " +
				"counted each time.",
		}),
	}
}

func (m *metrics) all() []prometheus.Collector { return []prometheus.Collector{m.placements} }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(to)
	}
}
