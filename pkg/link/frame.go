package link

import (
	"encoding/binary"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// maxFrame bounds the handshake's messages in bytes. A service account's token has about 1 KiB.
const maxFrame = 16 << 10

// frameHeader is the size of the length that comes before a message, in network byte order.
const frameHeader = 4

// writeMessage writes a message with its length before it.
func writeMessage(w io.Writer, m proto.Message) error {
	frame, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, frameHeader), m)
	if err != nil {
		return err
	}
	size := len(frame) - frameHeader
	if size > maxFrame {
		return fmt.Errorf("a message of the handshake has %d bytes, at most %d are allowed", size,
			maxFrame)
	}
	binary.BigEndian.PutUint32(frame, uint32(size)) //nolint:gosec // it is at most maxFrame
	_, err = w.Write(frame)
	return err
}

// readMessage reads a message, and not a byte after it: what follows is HTTP/2.
func readMessage(r io.Reader, m proto.Message) error {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(header[:])
	if size > maxFrame {
		return fmt.Errorf("a message of the handshake has %d bytes, at most %d are allowed", size,
			maxFrame)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return proto.Unmarshal(body, m)
}
