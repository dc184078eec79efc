package router

import (
	"github.com/prometheus/client_golang/prometheus"
)

// callBuckets in seconds: a call on a link takes some 100 µs, and a copy may last until its
// caller's deadline.
var callBuckets = []float64{
	.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100,
}

// metrics are the router's. Of each node there are only two counters: there may be 5,000 nodes.
type metrics struct {
	seconds *prometheus.HistogramVec // by method
}

func newMetrics(f *fleet, reg prometheus.Registerer) *metrics {
	m := &metrics{seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "csi_hostpath_router_call_seconds",
		Help:    "How long calls to nodes took, by method.",
		Buckets: callBuckets,
	}, []string{"method"})}
	if reg != nil {
		reg.MustRegister(m.seconds, fleetCollector{f})
	}
	return m
}

// fleetCollector makes the metrics of nodes and pools when they are read: a node that is forgotten
// leaves none.
type fleetCollector struct{ fleet *fleet }

var (
	nodesDesc = prometheus.NewDesc("csi_hostpath_router_nodes",
		"Nodes that are linked, and nodes that should be: they exist and have the driver.",
		[]string{"linked"}, nil)
	poolsDesc = prometheus.NewDesc("csi_hostpath_router_pools",
		"Pools of linked nodes: ready, not ready, or refused because another node has them.",
		[]string{"state"}, nil)
	callsDesc = prometheus.NewDesc("csi_hostpath_router_node_calls_total",
		"Calls to a node.", []string{"node"}, nil)
	failuresDesc = prometheus.NewDesc("csi_hostpath_router_node_failures_total",
		"Calls to a node that failed, whatever the reason.", []string{"node"}, nil)
	underWayDesc = prometheus.NewDesc("csi_hostpath_router_calls_under_way",
		"Calls to all nodes that are under way.", nil, nil)
)

// Describe implements prometheus.Collector.
func (fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodesDesc, poolsDesc, callsDesc, failuresDesc, underWayDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c fleetCollector) Collect(ch chan<- prometheus.Metric) {
	c.fleet.mu.RLock()
	defer c.fleet.mu.RUnlock()
	linked, notLinked := 0, 0
	pools := map[string]int{"ready": 0, "not_ready": 0, "refused": 0}
	for n := range c.fleet.known() {
		ch <- prometheus.MustNewConstMetric(callsDesc, prometheus.CounterValue,
			float64(n.calls.Load()), n.name)
		ch <- prometheus.MustNewConstMetric(failuresDesc, prometheus.CounterValue,
			float64(n.failures.Load()), n.name)
		if n.link == nil {
			notLinked++
			continue
		}
		linked++
		for _, p := range n.pools {
			pools[p.state()]++
		}
	}
	gauge := func(d *prometheus.Desc, value int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	gauge(nodesDesc, int64(linked), "true")
	gauge(nodesDesc, int64(notLinked), "false")
	gauge(underWayDesc, int64(c.fleet.turns.count()))
	for state, count := range pools {
		gauge(poolsDesc, int64(count), state)
	}
}

func (p *poolState) state() string {
	switch {
	case p.refused:
		return "refused"
	case p.notReady != "":
		return "not_ready"
	default:
		return "ready"
	}
}
