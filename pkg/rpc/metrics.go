package rpc

import (
	"github.com/container-storage-interface/spec/lib/go/csi"
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
)

// durationBuckets in seconds: a publication takes some 100 µs, and a copy may last until its
// caller's deadline.
var durationBuckets = []float64{
	.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100,
}

// metrics are the counters of a process's servers.
type metrics struct {
	server    *grpcprom.ServerMetrics
	conflicts *prometheus.CounterVec
	panics    *prometheus.CounterVec
}

// newMetrics registers on reg, unless that is nil, and panics when it has them already. Counters
// begin with 0 for each method: Prometheus sees no increase in a counter that begins with 1.
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
	for _, method := range methods() {
		m.conflicts.WithLabelValues(method)
		m.panics.WithLabelValues(method)
	}
	if reg != nil {
		reg.MustRegister(m.server, m.conflicts, m.panics)
	}
	return m
}

// methods are the names of the calls that the driver serves.
func methods() (names []string) {
	for _, service := range []grpc.ServiceDesc{
		csi.Identity_ServiceDesc, csi.Controller_ServiceDesc, csi.Node_ServiceDesc,
	} {
		for _, method := range service.Methods {
			names = append(names, method.MethodName)
		}
	}
	return names
}
