package rpc

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
)

// The verbosities of calls that succeed. Failures are always logged.
const (
	callVerbosity    = 3
	requestVerbosity = 5
)

// callLog writes one line for a call, and gives handlers a logger whose lines name the call.
type callLog struct {
	logger klog.Logger
	// calls numbers the calls of the process, to find the lines of one call. A random ID would cost
	// more.
	calls atomic.Uint64
}

func newCallLog(logger klog.Logger) *callLog { return &callLog{logger: logger} }

func (c *callLog) intercept(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	start := time.Now()
	logger := klog.LoggerWithValues(c.logger, c.values(ctx, req, info)...)
	// Before the call, because the request matters most when the handler hangs.
	if v := logger.V(requestVerbosity); v.Enabled() {
		v.Info("Call received", "request", Redact(req))
	}
	resp, err := handler(klog.NewContext(ctx, logger), req)
	if err != nil {
		logFailure(logger, err, time.Since(start))
	} else if v := logger.V(callVerbosity); v.Enabled() {
		v.Info("Call succeeded", "duration", time.Since(start))
	}
	return resp, err
}

// values identify the call in each of its log lines.
func (c *callLog) values(ctx context.Context, req any, info *grpc.UnaryServerInfo) []any {
	kv := make([]any, 0, 6)
	kv = append(kv, "method", methodName(info.FullMethod), "requestID", c.idOf(ctx))
	switch r := req.(type) {
	case interface{ GetVolumeId() string }:
		kv = append(kv, "volumeID", clip(r.GetVolumeId(), maxStringBytes))
	case interface{ GetName() string }:
		kv = append(kv, "name", clip(r.GetName(), maxStringBytes))
	}
	return kv
}

// idOf is the ID that the call has, else its number.
func (c *callLog) idOf(ctx context.Context) any {
	if id := requestID(ctx); id != "" {
		return id
	}
	return c.calls.Add(1)
}

// logFailure logs at the error level only what an operator must look at. Other failures concern the
// caller.
func logFailure(logger klog.Logger, err error, took time.Duration) {
	st := status.Convert(err)
	switch st.Code() {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		logger.Error(errors.New(st.Message()), "Call failed", "code", st.Code().String(), "duration",
			took)
	default:
		logger.Info("Call failed", "code", st.Code().String(), "err", st.Message(), "duration", took)
	}
}

// methodName is the last part of "/csi.v1.Node/NodePublishVolume"; CSI's services share no method
// names.
func methodName(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }
