package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// requestIDHeader carries the ID of a call from the router to the node, whose log then has the same
// ID.
const requestIDHeader = "x-request-id"

// maxRequestIDBytes bounds an ID of somebody else in the log.
const maxRequestIDBytes = 40

type requestIDKey struct{}

// GiveRequestIDs makes a server give each call an ID that no other process gives out.
func GiveRequestIDs() grpc.ServerOption {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	prefix := hex.EncodeToString(random) + "-"
	var calls atomic.Uint64
	return grpc.ChainUnaryInterceptor(func(
		ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
	) (any, error) {
		id := prefix + strconv.FormatUint(calls.Add(1), 10)
		return handler(context.WithValue(ctx, requestIDKey{}, id), req)
	})
}

// TakeRequestIDs makes a server use the IDs that its callers have given their calls. An ID that
// could confuse who reads the log is not used.
func TakeRequestIDs() grpc.ServerOption {
	return grpc.ChainUnaryInterceptor(func(
		ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
	) (any, error) {
		headers := metadata.ValueFromIncomingContext(ctx, requestIDHeader)
		if len(headers) == 1 && isRequestID(headers[0]) {
			ctx = context.WithValue(ctx, requestIDKey{}, headers[0])
		}
		return handler(ctx, req)
	})
}

// SendRequestID adds the call's ID to the calls that are made with the context.
func SendRequestID(ctx context.Context) context.Context {
	if id := requestID(ctx); id != "" {
		return metadata.AppendToOutgoingContext(ctx, requestIDHeader, id)
	}
	return ctx
}

// requestID is the call's ID; empty if it has none.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

func isRequestID(s string) bool {
	if s == "" || len(s) > maxRequestIDBytes {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' {
			return false
		}
	}
	return true
}
