package link

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// frameBuffer is a buffer that gives large memory back.
type frameBuffer struct{ bytes.Buffer }

// Reset implements bytes.Buffer.
func (b *frameBuffer) Reset() {
	if b.Cap() > windowBytes {
		b.Buffer = bytes.Buffer{}
	}
	b.Buffer.Reset()
}

// prefixBytes is the size of what comes before each message: whether it is compressed, which it
// never is, and its length (gRPC over HTTP2, Length-Prefixed-Message).
const prefixBytes = 5

func putLength(body []byte) {
	binary.BigEndian.PutUint32(body[1:], uint32(len(body)-prefixBytes)) //nolint:gosec // far less
}

// writeHeaders writes the headers of a request.
func (f *frames) writeHeaders(ctx context.Context, id uint32, node, method string) error {
	field := func(name, value string) {
		_ = f.encoder.WriteField(hpack.HeaderField{Name: name, Value: value}) // to memory
	}
	field(":method", "POST")
	field(":scheme", "http")
	field(":path", method)
	field(":authority", node)
	field("content-type", "application/grpc")
	field("te", "trailers")
	if deadline, ok := ctx.Deadline(); ok {
		field("grpc-timeout", timeout(time.Until(deadline)))
	}
	values, _ := metadata.FromOutgoingContext(ctx)
	for name, list := range values {
		for _, value := range list {
			if strings.HasSuffix(name, "-bin") {
				value = base64.RawStdEncoding.EncodeToString([]byte(value))
			}
			field(name, value)
		}
	}
	block := f.headers.Bytes()
	first := block[:min(len(block), frameBytes)]
	rest := block[len(first):]
	err := f.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: first, EndHeaders: len(rest) == 0,
	})
	for err == nil && len(rest) > 0 {
		part := rest[:min(len(rest), frameBytes)]
		rest = rest[len(part):]
		err = f.framer.WriteContinuation(id, len(rest) == 0, part)
	}
	return err
}

// timeout is a time in the form of gRPC: at most eight digits and a unit.
func timeout(d time.Duration) string {
	const most = 99_999_999
	d = max(d, 0)
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{time.Microsecond, "u"}, {time.Millisecond, "m"}, {time.Second, "S"}} {
		n := int64(d / unit.size)
		if d%unit.size > 0 {
			n++
		}
		if n <= most {
			return strconv.FormatInt(n, 10) + unit.name
		}
	}
	return strconv.FormatInt(min(int64(d/time.Hour), most), 10) + "H"
}

// writeData writes a part of a request.
func (f *frames) writeData(id uint32, body []byte, last bool) error {
	for {
		part := body[:min(len(body), frameBytes)]
		body = body[len(part):]
		err := f.framer.WriteData(id, last && len(body) == 0, part)
		if err != nil || len(body) == 0 {
			return err
		}
	}
}

// stream is a call under way.
type stream struct {
	client *client
	id     uint32
	window int64 // bytes that may be sent; the client's mu guards it

	ready chan struct{} // has an element when something has arrived

	mu     sync.Mutex
	buffer []byte // what has arrived and was not taken
	err    error  // how the call has ended; io.EOF: well; nil: it goes on

	// received is what the node was not told yet that it was read. Only the reader uses it.
	received int
}

// take reserves a part of the windows for at most n bytes. If that is nothing, later is closed when
// it may be more.
func (s *stream) take(n int) (taken int, later <-chan struct{}) {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	n = int(max(0, min(int64(n), s.window, c.window)))
	s.window -= int64(n)
	c.window -= int64(n)
	return n, c.widened
}

// sendRest sends what had no room in the windows, as the node reads. It returns early when the call
// has ended: the answer says how.
func (s *stream) sendRest(ctx context.Context, rest []byte) error {
	for len(rest) > 0 && s.failure() == nil {
		n, later := s.take(len(rest))
		if n == 0 {
			select {
			case <-later:
				continue
			case <-ctx.Done():
				s.cancel()
				return ctx.Err()
			}
		}
		err := s.client.write(func(f *frames) error {
			return f.writeData(s.id, rest[:n], n == len(rest))
		})
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (s *stream) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// fail ends the call, unless it has ended. The client's lock is held.
func (s *stream) fail(err error) {
	delete(s.client.streams, s.id)
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.wake()
	s.client.wakeSenders()
}

func (s *stream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// forget has the client no longer know the stream.
func (s *stream) forget() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	delete(s.client.streams, s.id)
}

// cancel tells the node that nobody waits for its answer.
func (s *stream) cancel() {
	s.client.mu.Lock()
	_, underWay := s.client.streams[s.id]
	delete(s.client.streams, s.id)
	s.client.mu.Unlock()
	if underWay {
		_ = s.client.write(func(f *frames) error {
			return f.framer.WriteRSTStream(s.id, http2.ErrCodeCancel)
		})
	}
}

// headers takes the first headers of an answer, or the last, which have its status.
func (s *stream) headers(f *http2.MetaHeadersFrame) {
	if !f.StreamEnded() {
		if code := f.PseudoValue("status"); code != "200" {
			s.client.refuse(s.id,
				status.Errorf(codes.Internal, "the node answers with HTTP status %q", code))
		}
		return
	}
	s.client.failed(s.id, trailer(f))
}

// trailer is how a call has ended: io.EOF or an error. CSI's errors have no details.
func trailer(f *http2.MetaHeadersFrame) error {
	var code, message string
	for _, field := range f.RegularFields() {
		switch field.Name {
		case "grpc-status":
			code = field.Value
		case "grpc-message":
			message = field.Value
		}
	}
	n, err := strconv.ParseUint(code, 10, 16)
	if err != nil {
		return status.Errorf(codes.Internal, "the node's answer has the status %q", code)
	}
	if n == uint64(codes.OK) {
		return io.EOF
	}
	if text, err := url.PathUnescape(message); err == nil {
		message = text
	}
	return status.Error(codes.Code(n), message)
}

// data takes a part of an answer; size is that of its frame.
func (s *stream) data(part []byte, size int) {
	s.received += size
	s.mu.Lock()
	tooLong := len(s.buffer)+len(part) > maxAnswer
	if !tooLong && s.err == nil {
		s.buffer = append(s.buffer, part...)
	}
	s.mu.Unlock()
	if tooLong {
		s.client.refuse(s.id, status.Errorf(codes.ResourceExhausted,
			"the node's answer has more than %d bytes", maxAnswer))
	}
	s.wake()
}

// next takes a message that has arrived. Errors: how the call has ended, if there is none.
func (s *stream) next() (message []byte, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.buffer) < prefixBytes {
		return nil, false, s.err
	}
	if s.buffer[0] != 0 {
		return nil, false, status.Error(codes.Internal, "the node's answer is compressed")
	}
	size := binary.BigEndian.Uint32(s.buffer[1:])
	if size > maxAnswer {
		return nil, false, status.Errorf(codes.ResourceExhausted,
			"the node's answer has %d bytes, at most %d are allowed", size, maxAnswer)
	}
	end := prefixBytes + int(size)
	if len(s.buffer) < end {
		return nil, false, s.err
	}
	message = s.buffer[prefixBytes:end]
	if s.buffer = s.buffer[end:]; len(s.buffer) == 0 {
		s.buffer = nil
	}
	return message, true, nil
}

// receive waits for the next message. Errors: how the call has ended; io.EOF: well.
func (s *stream) receive(ctx context.Context, reply any) error {
	for {
		message, ok, err := s.next()
		if ok {
			target, isMessage := reply.(proto.Message)
			if !isMessage {
				return status.Errorf(codes.Internal, "a %T is no message", reply)
			}
			if err := proto.Unmarshal(message, target); err != nil {
				s.cancel()
				return status.Errorf(codes.Internal, "decode the node's answer: %v", err)
			}
			return nil
		}
		if err != nil {
			s.cancel()
			return late(ctx, err)
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			s.cancel()
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// late is the error of a call whose stream the node may have reset because of the deadline, which
// the node knows too, and may notice first.
func late(ctx context.Context, err error) error {
	deadline, ok := ctx.Deadline()
	if ok && status.Code(err) == codes.Canceled && !time.Now().Before(deadline) {
		return status.FromContextError(context.DeadlineExceeded).Err()
	}
	return err
}

// finish waits for the end of a call that has had its answer.
func (s *stream) finish(ctx context.Context) error {
	for {
		_, ok, err := s.next()
		switch {
		case ok:
			s.cancel()
			return status.Error(codes.Internal, "the node has answered twice")
		case err == io.EOF: //nolint:errorlint // it is never wrapped
			return nil
		case err != nil:
			s.cancel()
			return late(ctx, err)
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			s.cancel()
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// answers is a stream of answers to one request.
type answers struct {
	ctx    context.Context //nolint:containedctx // grpc.ClientStream has it
	client *client
	method string
	stream *stream
	stop   func() bool
}

var _ grpc.ClientStream = (*answers)(nil)

// Header implements grpc.ClientStream: nobody asks for it.
func (*answers) Header() (metadata.MD, error) { return metadata.MD{}, nil }

// Trailer implements grpc.ClientStream: nobody asks for it.
func (*answers) Trailer() metadata.MD { return metadata.MD{} }

// CloseSend implements grpc.ClientStream. SendMsg has said that there is one request.
func (*answers) CloseSend() error { return nil }

// Context implements grpc.ClientStream.
func (a *answers) Context() context.Context { return a.ctx }

// SendMsg implements grpc.ClientStream.
func (a *answers) SendMsg(request any) (err error) {
	if a.stream != nil {
		return status.Error(codes.Internal, "a link has no streams of requests")
	}
	if a.stream, err = a.client.begin(a.ctx, a.method, request); err != nil {
		return err
	}
	a.stop = context.AfterFunc(a.ctx, a.stream.cancel)
	return nil
}

// RecvMsg implements grpc.ClientStream.
func (a *answers) RecvMsg(reply any) error {
	if a.stream == nil {
		return status.Error(codes.Internal, "there was no request")
	}
	err := a.stream.receive(a.ctx, reply)
	if err != nil {
		a.stop()
	}
	return err
}
