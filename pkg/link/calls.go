package link

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	// pingAfter is how long the controller hears nothing before it pings; gRPC has no smaller one.
	pingAfter = 10 * time.Second
	// pingTimeout is how long either side waits for the answer.
	pingTimeout = 8 * time.Second
	// nodePingAfter is longer than pingAfter, so that of an idle link only one side pings.
	nodePingAfter = 11 * time.Second
	// minPing is the shortest time between two pings that a node accepts.
	minPing = 5 * time.Second
	// window is how much a node may send, of one answer or of all, before the controller reads it.
	window = 64 << 10
	// maxAnswer bounds an answer of a node in bytes. Pages of lists have at most 1 MiB (pkg/rpc).
	maxAnswer = 2 << 20
	// connectTimeout bounds how long a node may take to begin with HTTP/2.
	connectTimeout = 10 * time.Second
)

// errDialled: a link ends with its connection.
var errDialled = errors.New("the link has ended")

// calls makes calls on a node's connection, and counts those under way.
type calls struct {
	client   *grpc.ClientConn
	node     string
	underWay atomic.Int64
	ended    atomic.Bool
}

var _ grpc.ClientConnInterface = (*calls)(nil)

// newCalls takes the connection over. The client never dials again.
func newCalls(node string, conn net.Conn) (*calls, error) {
	var taken atomic.Bool
	client, err := grpc.NewClient("passthrough:///"+node,
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if taken.Swap(true) {
				return nil, errDialled
			}
			return conn, nil
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the connection has TLS
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connectTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		// TLS has a buffer for reading, and gRPC's buffers for writing are shared.
		grpc.WithReadBufferSize(0),
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithDisableHealthCheck(),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, err
	}
	client.Connect()
	return &calls{client: client, node: node}, nil
}

// Invoke implements grpc.ClientConnInterface.
func (c *calls) Invoke(
	ctx context.Context, method string, args, reply any, opts ...grpc.CallOption,
) error {
	c.underWay.Add(1)
	defer c.underWay.Add(-1)
	return c.translate(ctx, c.client.Invoke(ctx, method, args, reply, opts...))
}

// NewStream implements grpc.ClientConnInterface. Streams end with the link: nobody waits for them.
func (c *calls) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := c.client.NewStream(ctx, desc, method, opts...)
	return stream, c.translate(ctx, err)
}

// translate makes UNAVAILABLE of the code of a call that the end of the link has cut off: gRPC has
// CANCELED for a client that is closed, as if the caller had cancelled it.
func (c *calls) translate(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil && c.ended.Load() && status.Code(err) == codes.Canceled {
		return status.Errorf(codes.Unavailable, "the link to node %s has ended: retry", c.node)
	}
	return err
}

// end ends all calls.
func (c *calls) end() {
	c.ended.Store(true)
	_ = c.client.Close() // its only error is that it was closed before
}
