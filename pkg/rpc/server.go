// Package rpc has what every gRPC call passes through before and after its handler.
package rpc

import (
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

// streamWorkers is the usual number of concurrent calls. Further calls get goroutines of their own.
const streamWorkers = 32

// Options says where calls are logged and counted.
type Options struct {
	// Logger takes the log of the calls. Handlers find it in their context, with the call's method
	// and number. Default: klog.Background().
	Logger klog.Logger
	// Registerer gets the metrics. Default: none, the metrics cannot be read.
	Registerer prometheus.Registerer
	// Scope says whose volumes the calls are for. Default: OneNode.
	Scope Scope
}

// Scope says how calls for the same volume are known.
type Scope int

const (
	// OneNode knows a volume by its directory, which the handle of an inline volume also says.
	OneNode Scope = iota
	// ManyNodes knows a volume by its ID: pools of several nodes may have directories of one name.
	// No call has the handle of an inline volume.
	ManyNodes
)

// NewServer returns a server without services, whose calls pass through the interceptors of
// ServerOptions, within the bounds of FloodControl. The caller registers its services, serves and
// stops it.
func NewServer(options []grpc.ServerOption) *grpc.Server {
	// A call that is one too many must cost neither a line in the log nor a metric.
	return grpc.NewServer(append(FloodControl(NodeBounds()), options...)...)
}

// ServerOptions returns the interceptors for unary calls. Only SnapshotMetadata has other calls,
// which the driver does not serve. It registers metrics, so a second call with the same Registerer
// panics.
func ServerOptions(opts Options) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(interceptors(opts)...),
		// These goroutines keep the stacks that they have grown.
		grpc.NumStreamWorkers(streamWorkers),
	}
}

// interceptors are in the order in which a call passes them. Metrics and log come before the error
// table, because they must see the code that the caller sees. Recover comes after it, so that a
// panic is counted and logged like any failure, and before the lock, so that a panic releases the
// lock. Limits come before the lock, because a request that is too large must not be told to retry,
// and must not make another call abort.
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
		newInFlight(m.conflicts, opts.Scope).intercept,
	}
}
