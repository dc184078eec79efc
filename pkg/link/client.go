package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// writeTimeout is how long the network may take to accept what is written.
	writeTimeout = 8 * time.Second
	// frameBytes bounds the data in a frame (SETTINGS_MAX_FRAME_SIZE).
	frameBytes = 16 << 10
	// windowBytes is what either side may send first, on a stream and on the connection (RFC 9113,
	// 6.9.2). Requests that are larger wait until the node has read.
	windowBytes = 65535
	// maxAnswer bounds an answer of a node in bytes. Pages of lists have at most 1 MiB (pkg/rpc).
	maxAnswer = 2 << 20
	// maxAnswerHeaders bounds the headers of an answer, with the text of its error.
	maxAnswerHeaders = 16 << 10
)

// client calls the services of a node on a connection: gRPC over HTTP/2. gRPC's own client has
// seven goroutines and 70 KiB for each connection, because it serves all that a client may want:
// names that resolve to many addresses, balancing, connections that come again. A link is one
// connection, and a controller has 5,000 of them. So it has its own client, with one goroutine that
// reads and no memory for writing. It has unary calls and streams of answers; call options are
// ignored.
type client struct {
	conn  net.Conn
	close func(why error) // closes the connection
	node  string

	underWay atomic.Int64 // unary calls

	writing sync.Mutex // held while frames are written, so that streams begin in the order of IDs

	mu      sync.Mutex
	streams map[uint32]*stream
	lastID  uint32        // of a stream that has begun
	window  int64         // bytes that may be sent on the connection
	initial int64         // and on a new stream
	most    uint32        // streams that the node allows at a time
	widened chan struct{} // closed when a window is wider, or a call has ended
	closing bool          // the node takes no more calls
	ended   error         // why no call goes on; nil: they do

	// What only the reader uses.
	received int // bytes of data that the node was not told yet that they were read
}

var _ grpc.ClientConnInterface = (*client)(nil)

// newClient takes a connection over, which it ends with closeConn. The caller runs read.
func newClient(node string, conn net.Conn, closeConn func(why error)) (*client, error) {
	c := &client{
		conn:    conn,
		close:   closeConn,
		widened: make(chan struct{}),
		node:    node,
		streams: map[uint32]*stream{},
		window:  windowBytes,
		initial: windowBytes,
		most:    maxConcurrent,
	}
	return c, c.write(func(f *frames) error {
		f.buffer.WriteString(http2.ClientPreface)
		return f.framer.WriteSettings(
			http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}, // no memory of headers
			http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxAnswerHeaders},
		)
	})
}

// maxConcurrent is how many streams there are before the node has said how many it allows.
const maxConcurrent = 100

// frames writes frames into a buffer. Without a table of headers it keeps nothing of a connection.
type frames struct {
	buffer  frameBuffer
	framer  *http2.Framer
	headers frameBuffer
	encoder *hpack.Encoder
}

//nolint:gochecknoglobals // all links share the pool; the garbage collector empties it
var framesPool = sync.Pool{New: func() any {
	f := &frames{}
	f.framer = http2.NewFramer(&f.buffer, nil)
	f.encoder = hpack.NewEncoder(&f.headers)
	f.encoder.SetMaxDynamicTableSize(0)
	return f
}}

// write writes the frames that fill makes, all at once.
func (c *client) write(fill func(*frames) error) error {
	f, _ := framesPool.Get().(*frames)
	defer framesPool.Put(f)
	f.buffer.Reset()
	f.headers.Reset()
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := fill(f); err != nil {
		return err
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(f.buffer.Bytes())
	if err != nil {
		c.close(err)
	}
	return err
}

// ping asks the node whether it is there. What it answers is read as everything else is.
func (c *client) ping() {
	_ = c.write(func(f *frames) error { return f.framer.WritePing(false, [8]byte{}) })
}

// Invoke implements grpc.ClientConnInterface.
func (c *client) Invoke(
	ctx context.Context, method string, args, reply any, _ ...grpc.CallOption,
) error {
	c.underWay.Add(1)
	defer c.underWay.Add(-1)
	s, err := c.begin(ctx, method, args)
	if err != nil {
		return err
	}
	switch err := s.receive(ctx, reply); {
	case errors.Is(err, io.EOF):
		return status.Error(codes.Internal, "the node has not answered")
	case err != nil:
		return err
	}
	return s.finish(ctx)
}

// NewStream implements grpc.ClientConnInterface, for one request and a stream of answers.
func (c *client) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, _ ...grpc.CallOption,
) (grpc.ClientStream, error) {
	if desc.ClientStreams {
		return nil, status.Error(codes.Unimplemented, "a link has no streams of requests")
	}
	return &answers{ctx: ctx, client: c, method: method}, nil
}

// begin sends a request.
func (c *client) begin(ctx context.Context, method string, request any) (*stream, error) {
	message, ok := request.(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.Internal, "a %T is no message", request)
	}
	body, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, prefixBytes), message)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "encode the request: %v", err)
	}
	putLength(body)
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	s := &stream{client: c, ready: make(chan struct{}, 1)}
	sent := 0
	err = c.write(func(f *frames) error {
		if err := c.open(s); err != nil {
			return err
		}
		if err := f.writeHeaders(ctx, s.id, c.node, method); err != nil {
			return err
		}
		sent, _ = s.take(len(body))
		return f.writeData(s.id, body[:sent], sent == len(body))
	})
	if err == nil {
		err = s.sendRest(ctx, body[sent:])
	}
	if err != nil {
		s.forget()
		return nil, c.unavailable(err)
	}
	return s, nil
}

// unavailable is the error of a call that could not be sent.
func (c *client) unavailable(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return status.Errorf(codes.Unavailable, "the link to node %s has ended: %v", c.node, err)
}

// open gives a stream its ID.
func (c *client) open(s *stream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended != nil:
		return c.unavailable(c.ended)
	case c.closing, c.lastID >= maxID:
		return status.Errorf(codes.Unavailable, "node %s is closing its link: retry", c.node)
	case len(c.streams) >= int(c.most):
		return status.Errorf(codes.Unavailable, "%d calls of node %s are under way: retry", c.most,
			c.node)
	}
	if c.lastID == 0 {
		c.lastID = 1
	} else {
		c.lastID += 2
	}
	s.id, s.window = c.lastID, c.initial
	c.streams[s.id] = s
	return nil
}

// maxID is less than the last ID of a stream of a client (RFC 9113, 5.1.1).
const maxID = 1<<31 - 3

// end ends all calls.
func (c *client) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return
	}
	c.ended = why
	for _, s := range c.streams {
		s.fail(c.unavailable(why))
	}
}

// wakeSenders has those look again that wait for a window. The lock is held.
func (c *client) wakeSenders() {
	close(c.widened)
	c.widened = make(chan struct{})
}

// read takes what the node sends, until the connection ends, with the reason.
func (c *client) read() error {
	framer := http2.NewFramer(nil, c.conn)
	framer.SetMaxReadFrameSize(frameBytes)
	framer.SetReuseFrames()
	framer.MaxHeaderListSize = maxAnswerHeaders
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := framer.ReadFrame()
		if wrong, ok := errors.AsType[http2.StreamError](err); ok {
			c.refuse(wrong.StreamID, status.Errorf(codes.Internal, "the node's answer: %v", err))
			continue
		}
		if err == nil {
			err = c.handle(frame)
		}
		if err != nil {
			return err
		}
	}
}

// handle takes a frame. Errors end the connection.
func (c *client) handle(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		data := f.Data
		return c.write(func(w *frames) error { return w.framer.WritePing(true, data) })
	case *http2.WindowUpdateFrame:
		c.widen(f.StreamID, int64(f.Increment))
	case *http2.MetaHeadersFrame:
		if s := c.stream(f.StreamID); s != nil {
			s.headers(f)
		}
	case *http2.DataFrame:
		return c.data(f)
	case *http2.RSTStreamFrame:
		c.failed(f.StreamID, resetError(f.ErrCode))
	case *http2.GoAwayFrame:
		c.goAway(f.LastStreamID)
	}
	return nil
}

func (c *client) stream(id uint32) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

func (c *client) failed(id uint32, err error) {
	if s := c.stream(id); s != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		s.fail(err)
	}
}

// refuse fails a call, and tells the node that nobody waits for its answer.
func (c *client) refuse(id uint32, err error) {
	c.failed(id, err)
	_ = c.write(func(f *frames) error {
		return f.framer.WriteRSTStream(id, http2.ErrCodeCancel)
	})
}

func (c *client) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	if most, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
		c.most = most
	}
	if initial, ok := f.Value(http2.SettingInitialWindowSize); ok {
		for _, s := range c.streams {
			s.window += int64(initial) - c.initial
		}
		c.initial = int64(initial)
	}
	c.wakeSenders()
	c.mu.Unlock()
	return c.write(func(w *frames) error { return w.framer.WriteSettingsAck() })
}

func (c *client) widen(id uint32, more int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 {
		c.window += more
	} else if s := c.streams[id]; s != nil {
		s.window += more
	}
	c.wakeSenders()
}

// data takes a part of an answer. What is read is at once room for more: the stream bounds an
// answer.
func (c *client) data(f *http2.DataFrame) error {
	size := int(f.Length)
	s := c.stream(f.StreamID)
	if s != nil {
		s.data(f.Data(), size)
	}
	if s != nil && f.StreamEnded() {
		c.failed(f.StreamID, status.Error(codes.Internal, "the node's answer has no status"))
		s = nil
	}
	c.received += size
	if c.received < windowBytes/4 && (s == nil || s.received < windowBytes/4) {
		return nil
	}
	return c.write(func(w *frames) error {
		if c.received > 0 {
			if err := w.framer.WriteWindowUpdate(0, uint32(c.received)); err != nil { //nolint:gosec // small
				return err
			}
			c.received = 0
		}
		if s == nil || s.received == 0 {
			return nil
		}
		n := uint32(s.received) //nolint:gosec // it is at most the window
		s.received = 0
		return w.framer.WriteWindowUpdate(s.id, n)
	})
}

// goAway fails the calls that the node has not seen, and lets no more begin.
func (c *client) goAway(last uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	for id, s := range c.streams {
		if id > last {
			s.fail(status.Errorf(codes.Unavailable, "node %s is closing its link: retry", c.node))
		}
	}
}

// resetError is the error of a call whose stream the node has reset.
func resetError(code http2.ErrCode) error {
	text := fmt.Sprintf("the node has ended the call: %v", code)
	switch code { //nolint:exhaustive // the others are faults
	case http2.ErrCodeRefusedStream:
		return status.Error(codes.Unavailable, text)
	case http2.ErrCodeCancel:
		return status.Error(codes.Canceled, text)
	case http2.ErrCodeEnhanceYourCalm:
		return status.Error(codes.ResourceExhausted, text)
	}
	return status.Error(codes.Internal, text)
}
