package volume

import (
	"errors"
	"fmt"
	"strings"
)

// The sentinels below are the whole vocabulary of failure under the gRPC layer. Each is wrapped
// with %w and a text that says what was wrong, where, and what would be right; pkg/rpc turns them
// into status codes in one table. An error that wraps none of them is a defect or a broken disk:
// INTERNAL.
var (
	// ErrInvalid: the request can never be right as it is written.
	ErrInvalid = errors.New("invalid argument")
	// ErrForbidden: the operator's rules do not allow it.
	ErrForbidden = errors.New("not allowed")
	// ErrNotFound: what the request names does not exist.
	ErrNotFound = errors.New("not found")
	// ErrIncompatible: a thing of that name exists, and it is not what was asked for.
	ErrIncompatible = errors.New("exists with other properties")
	// ErrInUse: the state of the volume forbids the request now (published, single writer, …).
	ErrInUse = errors.New("in use")
	// ErrPrecondition: something that is not the driver's has to be another way first: a path of
	// the host, for example.
	ErrPrecondition = errors.New("unmet precondition")
	// ErrNoSpace: there is no room here; another node may have some.
	ErrNoSpace = errors.New("no space")
	// ErrElsewhere: this node cannot do it whatever room it has; another node can.
	ErrElsewhere = errors.New("not on this node")
	// ErrTooMany: a number that the operator has bounded has reached its bound.
	ErrTooMany = errors.New("limit reached")
	// ErrOutOfRange: no pool could ever give that size.
	ErrOutOfRange = errors.New("out of range")
	// ErrBusy: another operation on the same thing is under way; the caller retries.
	ErrBusy = errors.New("operation in progress")
	// ErrBadToken: a list was continued with a token that no list call returned.
	ErrBadToken = errors.New("bad starting token")
	// ErrUnavailable: the pool exists in the configuration but cannot be used now.
	ErrUnavailable = errors.New("pool unavailable")
	// ErrNode: the node, or the driver's container, lacks what the call needs: a program, a
	// capability, a device. It is no fault of the pool.
	ErrNode = errors.New("not possible on this node")
	// ErrUnresponsive: a filesystem of the node does not answer, as FUSE or NFS without its server.
	ErrUnresponsive = errors.New("filesystem does not answer")
	// ErrNotLinked: the controller has no link to the node, or does not know which node it would need.
	ErrNotLinked = errors.New("node not linked")
	// ErrNodeBusy: the controller has as many calls under way to a node as it may have.
	ErrNodeBusy = errors.New("node busy")
	// ErrAPI: the Kubernetes API did not do what the controller needs of it.
	ErrAPI = errors.New("API of Kubernetes failed")
	// ErrStale: the volume can be used, and shows what it had before, because the present content
	// cannot be had.
	ErrStale = errors.New("not refreshed")
	// ErrCorrupt: the disk holds something the driver cannot make sense of. Nothing is guessed or
	// repaired.
	ErrCorrupt = errors.New("corrupt")
)

// Restate gives a failure another sentinel, for a caller to whom it means something else. The text
// of the sentinels that it begins with goes: two of them in a row would contradict each other. What
// it wrapped is not wrapped any more.
func Restate(as, err error) error {
	text := err.Error()
	for _, sentinel := range []error{ErrInvalid, ErrNotFound, ErrUnavailable} {
		text = strings.TrimPrefix(text, sentinel.Error()+": ")
	}
	return fmt.Errorf("%w: %s", as, text)
}
