package link

import "github.com/prometheus/client_golang/prometheus"

// resultLinked is the result of a handshake that made a link; the others are reasons of refusals.
const resultLinked = "linked"

type metrics struct {
	links      prometheus.Gauge
	handshakes *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		links: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "csi_hostpath_controller_linked_nodes",
			Help: "Number of nodes that are linked to this replica.",
		}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "csi_hostpath_controller_link_handshakes_total",
			Help: "Connections of nodes, by what became of them: linked, or why they were refused.",
		}, []string{"result"}),
	}
	for _, result := range []string{
		resultLinked, reasonTLS, reasonHello, reasonVersion, reasonDriver, reasonToken, reasonNodeName,
		reasonCrowded, reasonLost,
	} {
		m.handshakes.WithLabelValues(result)
	}
	if registerer != nil {
		registerer.MustRegister(m.links, m.handshakes)
	}
	return m
}
