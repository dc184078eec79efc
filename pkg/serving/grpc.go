// Package serving is how the programs listen: sockets, connections, gRPC servers, HTTP pages.
package serving

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
)

// ErrCutOff means that calls were still under way when the grace period ended.
var ErrCutOff = errors.New("calls under way were cut off")

// GRPC serves until the context ends. After the grace period it cuts the calls that are still
// under way and does not wait for them, because on a dead disk they never end. That is as safe for
// data as a crash; the callers have to call again. Errors: ErrCutOff.
func GRPC(
	ctx context.Context, server *grpc.Server, listener net.Listener, grace time.Duration,
) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the socket %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
		return <-served
	case <-time.After(grace):
		go server.Stop() // closes the connections, and then waits for the handlers as well
		return fmt.Errorf("%w after %s", ErrCutOff, grace)
	}
}
