package serving

import (
	"context"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
)

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

// BoundClosingOldest bounds the number of a listener's connections: the oldest one of the client
// with most connections is closed for a new one. It suits clients that connect for each request:
// their connections are young and few. name is what the log calls the listener.
func BoundClosingOldest(ctx context.Context, l net.Listener, name string, most int) net.Listener {
	return boundListener(ctx, l, name, most, oldestOfTheGreediest)
}

// BoundClosingNew bounds the number of a listener's connections: a new one that is too many is
// closed. It suits clients that keep their connection: a flood of one cannot break the connection
// of another.
func BoundClosingNew(ctx context.Context, l net.Listener, name string, most int) net.Listener {
	return boundListener(ctx, l, name, most, nobody)
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

// oldestOfTheGreediest is the oldest connection of the client with most connections.
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

// nobody keeps all existing connections.
func nobody([]*boundedConn) *boundedConn { return nil }
