// Package rpc is the gRPC edge of the driver: what every call passes through before and after its
// handler.
package rpc

import (
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

// streamWorkers is as many calls as kubelet and the sidecars have under way; more get goroutines of
// their own.
const streamWorkers = 32

// Options says where the edge reports to.
type Options struct {
	// Logger takes the log of the calls; handlers find it, with the call's method and number, in
	// their context. Default: klog.Background().
	Logger klog.Logger
	// Registerer gets the metrics. Default: none, the metrics are counted and nobody sees them.
	Registerer prometheus.Registerer
}

// NewServer returns a server without services, whose calls pass through the interceptors of
// ServerOptions, within the bounds of FloodControl. The caller registers its services, serves and
// stops it.
func NewServer(options []grpc.ServerOption) *grpc.Server {
	// A call that is one too many must cost neither a line in the log nor a metric.
	return grpc.NewServer(append(FloodControl(), options...)...)
}

// ServerOptions returns the interceptors for unary calls; CSI has no others but SnapshotMetadata's,
// which the driver does not serve. It registers metrics, so that a second call with the same
// Registerer panics.
func ServerOptions(opts Options) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(interceptors(opts)...),
		// Goroutines that stay have grown stacks already.
		grpc.NumStreamWorkers(streamWorkers),
	}
}

// interceptors are in the order in which a call meets them. Metrics and log stand outside the error
// table because they must see the code that the caller sees; recover stands inside it so that a
// panic is counted and logged like any failure, and outside the lock so that a panic releases it.
// Limits come before the lock: a request that can never be right must be told so, not to retry, and
// must not make a right one abort.
func interceptors(opts Options) []grpc.UnaryServerInterceptor {
	logger := opts.Logger
	if logger.IsZero() {
		logger = klog.Background()
	}
	m := newMetrics(opts.Registerer)
	return []grpc.UnaryServerInterceptor{
		m.server.UnaryServerInterceptor(),
		newCallLog(logger).intercept,
		mapErrors,
		recoverPanics(m.panics),
		enforceLimits,
		newInFlight(m.conflicts).intercept,
	}
}
