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

// recoverPanics answers INTERNAL when a handler panics. The answer has no details, because users
// may see it (CSI spec, "Error Scheme"). The log has the stack.
func recoverPanics(panics *prometheus.CounterVec) grpc.UnaryServerInterceptor {
	return recovery.UnaryServerInterceptor(
		recovery.WithRecoveryHandlerContext(func(ctx context.Context, value any) error {
			method, _ := grpc.Method(ctx)
			method = methodName(method)
			panics.WithLabelValues(method).Inc()
			klog.FromContext(ctx).Error(nil, "Handler panicked", "panic", panicText(value),
				"stack", string(debug.Stack()))
			return status.Errorf(codes.Internal,
				"internal error: %s panicked; the driver's log has the stack", method)
		}),
	)
}

// panicText is the text of an error or a string, and only the type of any other value, which may be
// a request with secrets.
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
