package rpc

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
)

// recoverPanics answers INTERNAL for a handler that panics. The caller learns no more than that,
// since the message may be shown to users (CSI spec, "Error Scheme"); the log has the stack.
func recoverPanics(panics *prometheus.CounterVec) grpc.UnaryServerInterceptor {
	return recovery.UnaryServerInterceptor(
		recovery.WithRecoveryHandlerContext(func(ctx context.Context, value any) error {
			method, _ := grpc.Method(ctx)
			method = methodName(method)
			panics.WithLabelValues(method).Inc()
			klog.FromContext(
				ctx,
			).Error(nil, "Handler panicked", "panic", panicText(value), "stack", string(debug.Stack()))
			return status.Errorf(codes.Internal,
				"internal error: %s panicked; the driver's log has the stack", method)
		}),
	)
}

// panicText prints errors and texts, which are written to be read, and of anything else the type
// only: the value may be a request with its secrets.
func panicText(value any) string {
	switch v := value.(type) {
	case error:
		return v.Error()
	case string:
		return v
	default:
		return fmt.Sprintf("a value of type %T", v)
	}
}
