// Package reach talks to what runs in pods, with the rights of the user: to the status API by a
// port-forward, to the driver's own commands by exec, and to logs.
package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	constants "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Pods reaches into pods.
type Pods struct {
	Config *rest.Config
	Client kubernetes.Interface
}

// Tunnel is a port-forward that opens no port on this machine: other users of the machine could
// connect to one. Its connections are streams of one connection to the API server.
type Tunnel struct {
	streams httpstream.Connection
	port    string
	next    atomic.Int64
}

// Tunnel connects to a port of a pod. The caller closes the tunnel. Errors: those of the API
// server, which may be Forbidden.
func (p Pods) Tunnel(pod *core.Pod, port string) (*Tunnel, error) {
	dialer, err := p.dialer(pod)
	if err != nil {
		return nil, err
	}
	streams, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, fmt.Errorf("port-forward to pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return &Tunnel{streams: streams, port: port}, nil
}

// dialer is the dialer that kubectl uses: a WebSocket, and SPDY where a proxy or an older API
// server refuses that.
func (p Pods) dialer(pod *core.Pod) (httpstream.Dialer, error) {
	target := p.subresource(pod, "portforward")
	transport, upgrader, err := spdy.RoundTripperFor(p.Config)
	if err != nil {
		return nil, err
	}
	second := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	first, err := portforward.NewSPDYOverWebsocketDialer(target, p.Config)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialer(first, second, isRefusedUpgrade), nil
}

func isRefusedUpgrade(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

func (p Pods) subresource(pod *core.Pod, name string) *url.URL {
	return p.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).
		Name(pod.Name).SubResource(name).URL()
}

// Close ends the tunnel and its connections.
func (t *Tunnel) Close() error { return t.streams.Close() }

// Client is a client whose connections go through the tunnel, whatever the URL. The name in the URL
// is what the server sees as the host: localhost is the one that the status API answers.
func (t *Tunnel) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return t.dial() },
	}}
}

// dial opens a connection: a stream for the data, and one for what the kubelet has to say.
func (t *Tunnel) dial() (net.Conn, error) {
	headers := http.Header{}
	headers.Set(core.StreamType, core.StreamTypeError)
	headers.Set(core.PortHeader, t.port)
	headers.Set(core.PortForwardRequestIDHeader, strconv.FormatInt(t.next.Add(1), 10))
	failure, err := t.streams.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("open a stream of the port-forward: %w", err)
	}
	_ = failure.Close() // this side writes nothing
	headers.Set(core.StreamType, core.StreamTypeData)
	data, err := t.streams.CreateStream(headers)
	if err != nil {
		t.streams.RemoveStreams(failure)
		return nil, fmt.Errorf("open a stream of the port-forward: %w", err)
	}
	c := &conn{Stream: data, tunnel: t, failure: failure, failed: make(chan error, 1)}
	go c.readFailure()
	return c, nil
}

// conn is a connection through a tunnel.
type conn struct {
	httpstream.Stream

	tunnel  *Tunnel
	failure httpstream.Stream
	failed  chan error
}

var _ net.Conn = (*conn)(nil)

// readFailure waits for the end of the stream of failures, which ends with the connection.
func (c *conn) readFailure() {
	message, err := io.ReadAll(io.LimitReader(c.failure, 1<<16))
	if len(message) > 0 {
		err = errors.New(string(message))
	}
	c.failed <- err
}

// Read implements net.Conn. The end of a connection that could not be made says why.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	if n == 0 && errors.Is(err, io.EOF) {
		select {
		case failure := <-c.failed:
			if failure != nil {
				return 0, failure
			}
		case <-time.After(time.Second): // the other side has closed the connection, and says no more
		}
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Reset()
	c.tunnel.streams.RemoveStreams(c.Stream, c.failure)
	return err
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return address("here") }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return address("pod:" + c.tunnel.port) }

// SetDeadline implements net.Conn. A stream has no deadline: the context of a request ends it.
func (c *conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

type address string

func (a address) Network() string { return constants.PortForwardV1Name }
func (a address) String() string  { return string(a) }
