package flood

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawClient speaks HTTP/2 by hand, so that it can begin what no gRPC client would: messages that
// never end, and answers that nobody reads.
type rawClient struct {
	conn   net.Conn
	out    *bufio.Writer
	framer *http2.Framer
}

// dialRaw connects to a unix socket and says what an HTTP/2 client says first. Windows for answers
// are closed: the server keeps what it has to say. The connection ends with the context.
func dialRaw(ctx context.Context, socket string) (*rawClient, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriterSize(conn, 64<<10)
	c := &rawClient{conn: conn, out: out, framer: http2.NewFramer(out, conn)}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	if _, err := io.WriteString(out, http2.ClientPreface); err != nil {
		return c, err
	}
	return c, c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
}

// open begins a call: its headers, and as much of its message as data has. Streams are numbered
// from 0.
func (c *rawClient) open(stream uint32, method string, data []byte, end bool) error {
	var headers bytes.Buffer
	encoder := hpack.NewEncoder(&headers)
	for _, field := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", method},
		{":authority", "localhost"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err
		}
	}
	id := 2*stream + 1
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: headers.Bytes(), EndHeaders: true,
	}); err != nil {
		return err
	}
	for len(data) > 0 {
		chunk := data[:min(len(data), 16<<10)]
		data = data[len(chunk):]
		if err := c.framer.WriteData(id, end && len(data) == 0, chunk); err != nil {
			return err
		}
	}
	return c.out.Flush()
}

// discard reads what the server says, so that it is never held up by a full socket.
func (c *rawClient) discard() {
	for {
		if _, err := c.framer.ReadFrame(); err != nil {
			return
		}
	}
}

// message is a gRPC message of a length, of which the body is only the beginning.
func message(length uint32, body []byte) []byte {
	framed := make([]byte, 5, 5+len(body))
	binary.BigEndian.PutUint32(framed[1:], length)
	return append(framed, body...)
}
