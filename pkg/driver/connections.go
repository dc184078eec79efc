package driver

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
)

// How many connections each listener has at most.
const (
	// maxKubeletConnections: kubelet connects for each call, and has one call under way for each
	// volume of each pod that starts or ends.
	maxKubeletConnections = 512
	// maxSidecarConnections: each sidecar has one connection.
	maxSidecarConnections = 16
	// maxRegistrationConnections: kubelet has one, and makes two calls on it.
	maxRegistrationConnections = 16
	// maxHTTPConnections: kubelet's probes and the scrapers of metrics have one for each request.
	maxHTTPConnections = 64
	// httpSocketBytes bounds what the kernel keeps for an HTTP connection in each direction; it
	// doubles the number (socket(7)).
	httpSocketBytes = 16 << 10
)

// sockets are the listeners for CSI.
type sockets struct {
	kubelet  net.Listener
	sidecars net.Listener // nil when none is configured
}

// openSockets makes the sockets for CSI. Sidecars keep the connections that they have, so a flood
// of theirs cannot break the connection of another sidecar; it can keep one out that starts
// meanwhile.
func openSockets(ctx context.Context, cfg config.Config) (s sockets, err error) {
	kubelet, err := Listen(cfg.Endpoint) //nolint:contextcheck // it waits for nothing
	if err != nil {
		return sockets{}, err
	}
	s.kubelet = boundListener(ctx, kubelet, "kubelet", maxKubeletConnections, oldestOfTheGreediest)
	if cfg.SidecarEndpoint == "" {
		return s, nil
	}
	//nolint:contextcheck // it waits for nothing
	sidecars, err := ListenForGroup(cfg.SidecarEndpoint, cfg.SidecarGroup)
	if err != nil {
		return sockets{}, errors.Join(err, kubelet.Close())
	}
	s.sidecars = boundListener(ctx, sidecars, "sidecars", maxSidecarConnections, nobody)
	return s, nil
}

// boundedListener bounds the number of connections. It accepts every connection at once: in the
// socket's backlog regular clients would wait behind a flood.
type boundedListener struct {
	net.Listener
	most int
	// victim chooses the connection that is closed for a new one when there are too many. It
	// returns nil to have the new one closed.
	victim func(conns []*boundedConn) *boundedConn
	logger klog.Logger
	seldom rate.Sometimes

	mu    sync.Mutex
	conns []*boundedConn // in the order in which they were accepted
}

// boundListener bounds a listener. name is what the log calls it.
func boundListener(
	ctx context.Context, l net.Listener, name string, most int,
	victim func([]*boundedConn) *boundedConn,
) net.Listener {
	return &boundedListener{
		Listener: l,
		most:     most,
		victim:   victim,
		logger:   klog.FromContext(ctx).WithValues("listener", name),
		seldom:   rate.Sometimes{Interval: time.Minute},
	}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &boundedConn{Conn: conn, listener: l, source: sourceOf(conn)}
		closed := l.admit(c)
		if closed != nil {
			closed.Conn.Close()
			l.seldom.Do(func() {
				l.logger.Info("Closing connections: there are too many", "most", l.most,
					"source", closed.source)
			})
		}
		if closed != c {
			return c, nil
		}
	}
}

// admit adds a connection and returns the one that is to be closed for it, if any.
func (l *boundedListener) admit(c *boundedConn) *boundedConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) < l.most {
		l.conns = append(l.conns, c)
		return nil
	}
	victim := l.victim(l.conns)
	if victim == nil {
		return c
	}
	l.conns = append(without(l.conns, victim), c)
	return victim
}

func (l *boundedListener) forget(c *boundedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = without(l.conns, c)
}

func without(conns []*boundedConn, c *boundedConn) []*boundedConn {
	return slices.DeleteFunc(conns, func(other *boundedConn) bool { return other == c })
}

// boundedConn is a connection that its listener counts until it is closed.
type boundedConn struct {
	net.Conn
	listener *boundedListener
	source   string // the client's IP address; empty for a unix socket

	mu      sync.Mutex
	answers []answer // the oldest first
	closed  bool
}

// answer is an announced answer; bytes of it are not written yet.
type answer struct {
	bytes   int64
	written func(bytes int64)
}

// Write implements net.Conn.
func (c *boundedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.settle(int64(n))
	return n, err
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	c.listener.forget(c)
	err := c.Conn.Close()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.settle(math.MaxInt64)
	return err
}

// settle reports bytes of the oldest answers as written.
func (c *boundedConn) settle(bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.answers) > 0 && bytes > 0 {
		part := min(bytes, c.answers[0].bytes)
		c.answers[0].written(part)
		c.answers[0].bytes -= part
		bytes -= part
		if c.answers[0].bytes == 0 {
			c.answers = c.answers[1:]
		}
	}
}

// RemoteAddr implements net.Conn.
func (c *boundedConn) RemoteAddr() net.Addr { return connection{c.Conn.RemoteAddr(), c} }

// connection is the address of a peer that knows its connection.
type connection struct {
	net.Addr
	conn *boundedConn
}

var _ rpc.Connection = connection{}

// Answer implements rpc.Connection.
func (a connection) Answer(bytes int64, written func(bytes int64)) {
	a.conn.mu.Lock()
	defer a.conn.mu.Unlock()
	if a.conn.closed || bytes == 0 {
		written(bytes)
		return
	}
	a.conn.answers = append(a.conn.answers, answer{bytes, written})
}

func sourceOf(conn net.Conn) string {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.IP.String()
	}
	return ""
}

// oldestOfTheGreediest is the oldest connection of the client with most connections. It suits
// clients that connect for each request: their connections are young and few.
func oldestOfTheGreediest(conns []*boundedConn) *boundedConn {
	counts := map[string]int{}
	for _, c := range conns {
		counts[c.source]++
	}
	most := conns[0]
	for _, c := range conns {
		if counts[c.source] > counts[most.source] {
			most = c
		}
	}
	return most
}

// nobody keeps all existing connections. It suits clients that never connect again.
func nobody([]*boundedConn) *boundedConn { return nil }

// boundSocket keeps the kernel from buffering megabytes for each connection. It sets the options of
// a TCP listener, which its connections inherit.
func boundSocket(_, _ string, conn syscall.RawConn) (err error) {
	controlErr := conn.Control(func(fd uintptr) {
		for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, httpSocketBytes)
			}
		}
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}
