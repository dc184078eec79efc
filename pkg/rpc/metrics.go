package rpc

import (
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
)

// durationBuckets in seconds, from 100 µs (a publish is a few system calls) to 100 s (a copy meets
// its caller's deadline).
var durationBuckets = []float64{
	.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100,
}

// metrics are what a server counts.
type metrics struct {
	server    *grpcprom.ServerMetrics
	conflicts *prometheus.CounterVec
	panics    *prometheus.CounterVec
}

// newMetrics registers on reg, unless that is nil, and panics when it has them already: a process
// has one server.
func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		server: grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram(
			grpcprom.WithHistogramBuckets(durationBuckets))),
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "csi_hostpath_rpc_conflicts_total",
			Help: "Calls answered ABORTED because another call held the volume or the path.",
		}, []string{"method"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "csi_hostpath_rpc_panics_total",
			Help: "Calls whose handler panicked. Each is a defect, with its stack in the log.",
		}, []string{"method"}),
	}
	if reg != nil {
		reg.MustRegister(m.server, m.conflicts, m.panics)
	}
	return m
}
