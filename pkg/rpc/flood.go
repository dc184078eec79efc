package rpc

import (
	"container/list"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/encoding/protowire"
	protobuf "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The bounds of what one server keeps for its callers. Arriving requests take at most maxArriving
// times maxMessage, 32 MiB.
const (
	// maxMessage bounds a request to a node in bytes. The limits of the specification allow about
	// 30 KiB, and a topology of 200 nodes needs as much again. gRPC has no smaller window, so a
	// smaller bound would save no memory.
	maxMessage = 64 << 10
	// maxFields bounds the fields of a request, with those of the messages in it: an empty message
	// has 2 bytes on the wire and 80 in memory.
	maxFields = 2048
	// maxTopologies is how many nodes a request to the router may name, twice: as those where the
	// volume may be, and as those where it should be.
	maxTopologies = 10_000
	// maxHeaders bounds the headers of a call in bytes; gRPC's own have some hundred.
	maxHeaders = 8 << 10
	// maxStreams bounds the running calls of one connection. Further calls wait in the client. The
	// provisioner creates up to 100 volumes and deletes up to 100 at a time.
	maxStreams = 128
	// maxArriving bounds the calls of a server whose requests are incomplete.
	maxArriving = 512
	// maxArrivingLarge is maxArriving where requests may be large.
	maxArrivingLarge = 64
	// maxRunning bounds the running calls of a server. kubelet has one for each volume of each pod
	// that starts or ends.
	maxRunning = 512
	// maxPage bounds a page of a list in bytes. Other answers have some hundred bytes.
	maxPage = 1 << 20
	// maxUnread bounds the bytes of the pages that callers have not read yet.
	maxUnread = 32 << 20
	// connectionBuffer is the size in bytes of each of a connection's two buffers. Most messages
	// have less than 4 KiB.
	connectionBuffer = 8 << 10
	// handshakeTimeout bounds how long a connection may take to begin with HTTP/2.
	handshakeTimeout = 10 * time.Second
	// minPing is the shortest time between two pings of a client: gRPC's default. CSI clients do not
	// ping.
	minPing = 5 * time.Minute
)

// FloodControl returns options that bound the memory of one server: for each connection, for each
// call and for all of them together. The listener has to bound the number of connections. Each
// server needs its own options, so that the callers of one do not delay those of another.
//
// A request that is too large is RESOURCE_EXHAUSTED. Connections are never closed for their age or
// for being idle, because the sidecars keep theirs and exit when it breaks (csi-lib-utils,
// connection).
func FloodControl(b Bounds) []grpc.ServerOption {
	f := &floodControl{maxArriving: b.arriving}
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(b.message),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(maxStreams),
		// With windows of a fixed size gRPC does not measure the bandwidth, which costs a ping for
		// each request. The window of the connection holds no memory: received data counts for its
		// stream.
		grpc.StaticStreamWindowSize(maxMessage),
		grpc.StaticConnWindowSize(16 * maxMessage),
		grpc.ReadBufferSize(connectionBuffer),
		grpc.WriteBufferSize(connectionBuffer),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing}),
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name), b.fields}),
		grpc.InTapHandle(f.arrive),
		grpc.ChainUnaryInterceptor(f.intercept),
		grpc.ChainStreamInterceptor(f.interceptStream),
	}
}

// Bounds are those of a request, in bytes and in fields, and how many may be incomplete at a time.
type Bounds struct {
	message, fields, arriving int
}

// NodeBounds are for the servers of a node. Requests that arrive take 32 MiB at most.
func NodeBounds() Bounds { return Bounds{maxMessage, maxFields, maxArriving} }

// RouterBounds are for the router, whose requests may name each node of the cluster. Its callers
// are sidecars in the same pod. Requests that arrive take 180 MiB at most.
func RouterBounds() Bounds {
	// A topology has a key and a value of at most 63 characters and a prefix of as many, and is
	// four fields: the topology, its entry, the entry's key and value.
	const topologyBytes, topologyFields = 144, 4
	return Bounds{
		message:  maxMessage + 2*maxTopologies*topologyBytes,
		fields:   maxFields + 2*maxTopologies*topologyFields,
		arriving: maxArrivingLarge,
	}
}

// Connection is the address of a peer whose connection reports what it has written.
type Connection interface {
	net.Addr
	// Answer announces an answer. The connection calls written for each part of it that is written,
	// or lost with the connection. The parts add up to bytes.
	Answer(bytes int64, written func(bytes int64))
}

// floodControl counts the calls of one server.
type floodControl struct {
	maxArriving int

	mu       sync.Mutex
	arriving list.List // of *arrival, the oldest first
	running  int
	unread   int64 // bytes of pages that are made or have not been written
}

// arrival is a call whose request is incomplete.
type arrival struct {
	cancel  context.CancelFunc
	element *list.Element // in floodControl.arriving
	stop    func() bool   // stops waiting for the end of the call
}

type arrivalKey struct{}

// arrive runs when the headers of a call have arrived. If too many requests are incomplete, it ends
// the oldest call: the request of a regular client is complete within milliseconds.
func (f *floodControl) arrive(ctx context.Context, _ *tap.Info) (context.Context, error) {
	ctx, cancel := context.WithCancel(ctx)
	a := &arrival{cancel: cancel}
	f.mu.Lock()
	if f.arriving.Len() >= f.maxArriving {
		oldest, _ := f.arriving.Remove(f.arriving.Front()).(*arrival)
		oldest.cancel()
	}
	a.element = f.arriving.PushBack(a)
	f.mu.Unlock()
	a.stop = context.AfterFunc(ctx, func() { f.arrived(a) })
	return context.WithValue(ctx, arrivalKey{}, a), nil
}

// arrived removes a call whose request is complete or given up.
func (f *floodControl) arrived(a *arrival) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arriving.Remove(a.element)
}

func (f *floodControl) intercept(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	a, _ := ctx.Value(arrivalKey{}).(*arrival)
	if !f.begin(a) {
		return nil, status.Errorf(codes.Unavailable, "%d calls are under way: retry", maxRunning)
	}
	defer f.end()
	if _, ok := req.(interface{ GetStartingToken() string }); ok {
		return f.list(ctx, req, handler)
	}
	return handler(ctx, req)
}

// interceptStream counts a stream as one call, as long as it lasts.
func (f *floodControl) interceptStream(
	srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler,
) error {
	a, _ := stream.Context().Value(arrivalKey{}).(*arrival)
	if !f.begin(a) {
		return status.Errorf(codes.Unavailable, "%d calls are under way: retry", maxRunning)
	}
	defer f.end()
	return handler(srv, stream)
}

// list makes a page and counts it until it is written. gRPC keeps an answer until the caller reads
// it, although the call has ended.
func (f *floodControl) list(ctx context.Context, req any, handler grpc.UnaryHandler) (any, error) {
	if !f.reservePage() {
		return nil, status.Error(codes.Unavailable,
			"too many lists have not been read by their callers: retry")
	}
	reserved := int64(maxPage)
	defer func() { f.release(reserved) }()
	resp, err := handler(ctx, req)
	caller, _ := peer.FromContext(ctx)
	page, ok := resp.(protobuf.Message)
	if caller == nil || err != nil || !ok {
		return resp, err
	}
	if conn, ok := caller.Addr.(Connection); ok {
		size := int64(protobuf.Size(page))
		reserved -= size
		conn.Answer(size, f.release)
	}
	return resp, nil
}

// reservePage counts the bytes of a page before it is made; false when there are too many.
func (f *floodControl) reservePage() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unread+maxPage > maxUnread {
		return false
	}
	f.unread += maxPage
	return true
}

func (f *floodControl) release(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unread -= bytes
}

// begin counts a running call; false when there are too many.
func (f *floodControl) begin(a *arrival) bool {
	a.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arriving.Remove(a.element)
	if f.running >= maxRunning {
		return false
	}
	f.running++
	return true
}

func (f *floodControl) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
}

// codec is protobuf's codec, but refuses a message with too many fields before decoding it.
type codec struct {
	encoding.CodecV2
	maxFields int
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(protobuf.Message); ok {
		wire := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer wire.Free()
		if countFields(wire.ReadOnlyData(), m.ProtoReflect().Descriptor(), c.maxFields) > c.maxFields {
			return fmt.Errorf("the request has more than %d fields", c.maxFields)
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

// countFields counts the fields of a message and of the messages in it. It stops beyond the limit,
// and where the bytes are not protobuf; the decoder refuses those.
func countFields(wire []byte, message protoreflect.MessageDescriptor, limit int) int {
	fields := 0
	for len(wire) > 0 && fields <= limit {
		number, kind, tag := protowire.ConsumeTag(wire)
		if tag < 0 {
			return fields
		}
		size := protowire.ConsumeFieldValue(number, kind, wire[tag:])
		if size < 0 {
			return fields
		}
		fields++
		field := message.Fields().ByNumber(number)
		if kind == protowire.BytesType && field != nil && field.Message() != nil {
			inner, _ := protowire.ConsumeBytes(wire[tag:])
			fields += countFields(inner, field.Message(), limit-fields)
		}
		wire = wire[tag+size:]
	}
	return fields
}
