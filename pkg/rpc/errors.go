package rpc

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// codeEntry gives errors that wrap err a code.
type codeEntry struct {
	err  error
	code codes.Code
}

// codeTable is the only place where an error gets its code (CSI spec, "Error Scheme"). An error
// that wraps several entries gets the first: the driver's sentinels say more than system errors.
var codeTable = []codeEntry{
	{volume.ErrInvalid, codes.InvalidArgument},
	{volume.ErrForbidden, codes.PermissionDenied},
	{volume.ErrNotFound, codes.NotFound},
	{volume.ErrIncompatible, codes.AlreadyExists},
	{volume.ErrInUse, codes.FailedPrecondition},
	{volume.ErrPrecondition, codes.FailedPrecondition},
	{volume.ErrNoSpace, codes.ResourceExhausted},
	{volume.ErrTooMany, codes.ResourceExhausted},
	{volume.ErrOutOfRange, codes.OutOfRange},
	{volume.ErrBusy, codes.Aborted},
	{volume.ErrBadToken, codes.Aborted},
	{volume.ErrUnavailable, codes.Unavailable},
	{volume.ErrNode, codes.Unavailable},
	// Not DATA_LOSS, which means "unrecoverable". Most often only a record is unreadable, which can be
	// written again while the data is intact. kubelet treats both codes as final
	// (isFinalError in pkg/volume/csi/csi_client.go).
	{volume.ErrCorrupt, codes.Internal},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	// A disk that fills up during a call means the same to the scheduler as a ledger without room.
	{syscall.ENOSPC, codes.ResourceExhausted},
	{syscall.EDQUOT, codes.ResourceExhausted},
}

// Code is the status code that a caller sees when a handler returns err. Unknown errors are
// INTERNAL, nil is OK.
func Code(err error) codes.Code { return toStatus(err).Code() }

// toStatus never carries details: "The status details MUST be empty" (CSI spec, "Error Scheme").
func toStatus(err error) *status.Status {
	if err == nil {
		return nil
	}
	// gRPC would send an empty success for a status that is OK.
	if st, ok := status.FromError(err); ok && st.Code() != codes.OK {
		return status.New(st.Code(), describe(st.Message(), st.Code()))
	}
	code := lookUp(err)
	return status.New(code, describe(err.Error(), code))
}

func lookUp(err error) codes.Code {
	for _, entry := range codeTable {
		if errors.Is(err, entry.err) {
			return entry.code
		}
	}
	return codes.Internal
}

// describe replaces an empty message: the spec wants a human-readable one with every code but OK.
func describe(message string, code codes.Code) string {
	if message == "" {
		return code.String()
	}
	return message
}

// mapErrors turns a handler's error into a status. A call whose caller has gone is not begun: the
// caller may have called again, and would meet this call's lock.
func mapErrors(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, toStatus(fmt.Errorf("%w before the call began", err)).Err()
	}
	resp, err := handler(ctx, req)
	if err != nil {
		return nil, toStatus(err).Err()
	}
	return resp, nil
}
