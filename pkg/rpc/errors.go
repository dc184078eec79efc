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
	// remedy is added to the message of an error that has none.
	remedy string
}

// What to do about a disk or a filesystem of the node.
const (
	lookAtMounts = "something is mounted on a directory of the pool (findmnt shows it): unmount it"
	lookAtDisk   = "the node's disk or filesystem has failed: look into the kernel's log (dmesg), repair it"
	makeRoom     = "the disk, or a quota on it, is full: delete volumes, snapshots or other files"
	lookAtServer = "the server of a mounted filesystem (FUSE, NFS) does not answer: restart it, or unmount it"
)

// codeTable is the only place where an error gets its code (CSI spec, "Error Scheme"). An error
// that wraps several entries gets the first: the driver's sentinels say more than system errors.
var codeTable = []codeEntry{
	{err: volume.ErrInvalid, code: codes.InvalidArgument},
	{err: volume.ErrForbidden, code: codes.PermissionDenied},
	{err: volume.ErrNotFound, code: codes.NotFound},
	{err: volume.ErrIncompatible, code: codes.AlreadyExists},
	{err: volume.ErrInUse, code: codes.FailedPrecondition},
	{err: volume.ErrPrecondition, code: codes.FailedPrecondition},
	{err: volume.ErrNoSpace, code: codes.ResourceExhausted},
	// The code that makes the scheduler try another node (external-provisioner, checkError).
	{err: volume.ErrElsewhere, code: codes.ResourceExhausted},
	{err: volume.ErrTooMany, code: codes.ResourceExhausted},
	{err: volume.ErrOutOfRange, code: codes.OutOfRange},
	{err: volume.ErrBusy, code: codes.Aborted},
	{err: volume.ErrBadToken, code: codes.Aborted},
	{err: volume.ErrUnavailable, code: codes.Unavailable},
	{err: volume.ErrNode, code: codes.Unavailable},
	{err: volume.ErrUnresponsive, code: codes.Unavailable, remedy: lookAtServer},
	{err: volume.ErrNotLinked, code: codes.Unavailable},
	{err: volume.ErrNodeBusy, code: codes.Unavailable},
	{err: volume.ErrAPI, code: codes.Unavailable},
	// Not a final code: after one, kubelet removes the directory of a volume that it publishes again
	// (SetUpAt in pkg/volume/csi/csi_mounter.go before v1.37, kubernetes/kubernetes#121271).
	{err: volume.ErrStale, code: codes.Unavailable},
	// An operator has mounted something in a pool. Before ErrCorrupt, because a record that is hidden
	// is not lost.
	{err: syscall.EXDEV, code: codes.FailedPrecondition, remedy: lookAtMounts},
	// Not DATA_LOSS, which means "unrecoverable". Most often only a record is unreadable, which can be
	// written again while the data is intact. kubelet treats both codes as final
	// (isFinalError in pkg/volume/csi/csi_client.go).
	{err: volume.ErrCorrupt, code: codes.Internal},
	{err: context.Canceled, code: codes.Canceled},
	{err: context.DeadlineExceeded, code: codes.DeadlineExceeded},
	// A disk that fills up during a call means the same to the scheduler as a ledger without room.
	{err: syscall.ENOSPC, code: codes.ResourceExhausted, remedy: makeRoom},
	{err: syscall.EDQUOT, code: codes.ResourceExhausted, remedy: makeRoom},
	// Faults of the node: the driver did nothing wrong, and the call may succeed later.
	{err: syscall.EIO, code: codes.Unavailable, remedy: lookAtDisk},
	{err: syscall.EROFS, code: codes.Unavailable, remedy: lookAtDisk},
	{err: syscall.ENOTCONN, code: codes.Unavailable, remedy: lookAtServer},
	{err: syscall.ECONNABORTED, code: codes.Unavailable, remedy: lookAtServer},
	{err: syscall.ESTALE, code: codes.Unavailable, remedy: lookAtServer},
	{err: syscall.ETIMEDOUT, code: codes.Unavailable, remedy: lookAtServer},
	{err: syscall.ESHUTDOWN, code: codes.Unavailable, remedy: lookAtDisk},
	{err: syscall.EHOSTDOWN, code: codes.Unavailable, remedy: lookAtServer},
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
	entry := lookUp(err)
	message := err.Error()
	if entry.remedy != "" {
		message += ": " + entry.remedy
	}
	return status.New(entry.code, describe(message, entry.code))
}

func lookUp(err error) codeEntry {
	for _, entry := range codeTable {
		if errors.Is(err, entry.err) {
			return entry
		}
	}
	return codeEntry{code: codes.Internal}
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
