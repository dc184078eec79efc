package link

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxHandshakeBytes bounds what a peer may send before its link stands.
const maxHandshakeBytes = 64 << 10

// errTooLong: the peer sends more than a handshake has.
var errTooLong = errors.New("the peer sends more than a handshake has")

// conn is a connection that knows why it has ended.
type conn struct {
	net.Conn
	// bounded says whether left counts, and left is how many bytes the peer may still send. Only who
	// reads uses them.
	bounded bool
	left    int

	lastRead atomic.Int64 // Unix time in nanoseconds

	mu     sync.Mutex
	why    error
	closed chan struct{}
	onEnd  func(why error)
}

func newConn(raw net.Conn) *conn {
	c := &conn{Conn: raw, bounded: true, left: maxHandshakeBytes, closed: make(chan struct{})}
	c.lastRead.Store(time.Now().UnixNano())
	return c
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.lastRead.Store(time.Now().UnixNano())
	}
	if c.left -= n; c.bounded && c.left < 0 {
		err = errTooLong
	}
	switch {
	case errors.Is(err, io.EOF):
		c.note(errors.New("the peer has closed the connection"))
	case err != nil:
		c.note(err)
	}
	return n, err
}

// heard is when something was read last.
func (c *conn) heard() time.Time { return time.Unix(0, c.lastRead.Load()) }

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.note(err)
	}
	return n, err
}

// note keeps the first reason for the end.
func (c *conn) note(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == nil {
		c.why = why
	}
}

// whenEnded has a function called once, when the connection is closed, or now if it is. The
// function must not wait.
func (c *conn) whenEnded(onEnd func(why error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closed:
		onEnd(c.why)
	default:
		c.onEnd = onEnd
	}
}

// end closes the connection for a reason.
func (c *conn) end(why error) {
	c.note(why)
	_ = c.Close() // nothing is lost: what ends was told
}

// errClosed: gRPC has closed the connection, and the log of neither side says more.
var errClosed = errors.New("the connection was closed")

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.note(errClosed)
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closed:
	default:
		close(c.closed)
		if c.onEnd != nil {
			c.onEnd(c.why)
		}
	}
	return err
}

// cause is why a closed connection was closed.
func (c *conn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}
