package rpc

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func TestEveryRequestThatTheLimitsLetPassIsSmallEnough(t *testing.T) {
	for m := range requests(t) {
		for _, chain := range textChains(m.ProtoReflect().Descriptor(), nil) {
			place(m.ProtoReflect(), chain, limitOf(chain[len(chain)-1]))
		}
		wire := marshal(t, m)
		fields := countFields(wire, m.ProtoReflect().Descriptor(), maxFields)
		if len(wire) > maxMessage/2 || fields > maxFields/2 {
			t.Errorf("%T: %d bytes, %d fields", m, len(wire), fields)
		}
	}
}

// A cluster may have a topology segment for each node, and a request may list all nodes.
func TestARequestMayNameTwoHundredNodes(t *testing.T) {
	var nodes []*csi.Topology
	for i := range 200 {
		nodes = append(nodes, &csi.Topology{Segments: map[string]string{
			"topology.hostpath.csi.local/node": strings.Repeat("n", 60) + string(rune('a'+i%26)),
		}})
	}
	m := &csi.CreateVolumeRequest{AccessibilityRequirements: &csi.TopologyRequirement{
		Requisite: nodes, Preferred: nodes,
	}}
	wire := marshal(t, m)
	if fields := countFields(wire, m.ProtoReflect().Descriptor(), maxFields); len(wire) > maxMessage ||
		fields > maxFields {
		t.Errorf("%d bytes, %d fields", len(wire), fields)
	}
}

func TestARequestThatIsTooLargeIsRefused(t *testing.T) {
	e := newEdge(t, 0)
	_, err := e.client.CreateVolume(t.Context(),
		&csi.CreateVolumeRequest{Name: strings.Repeat("x", maxMessage)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("of %d bytes: %v", maxMessage, err)
	}
	many := slices.Repeat([]*csi.VolumeCapability{{}}, maxFields+1)
	_, err = e.client.CreateVolume(t.Context(),
		&csi.CreateVolumeRequest{Name: "v", VolumeCapabilities: many})
	if err == nil || !strings.Contains(err.Error(), "more than 2048 fields") {
		t.Errorf("of %d fields: %v", maxFields+1, err)
	}
	if _, err := e.client.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "v"}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestTheOldestOfTooManyArrivalsIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &floodControl{maxArriving: maxArriving}
		arrive := func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			ctx, err := f.arrive(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			return ctx, cancel
		}
		first, _ := arrive()
		second, end := arrive()
		for range maxArriving - 2 {
			arrive()
		}
		if first.Err() != nil || f.arriving.Len() != maxArriving {
			t.Fatalf("%d arrive, the first: %v", f.arriving.Len(), first.Err())
		}
		arrive()
		if first.Err() == nil || second.Err() != nil {
			t.Errorf("of one too many: the first %v, the second %v", first.Err(), second.Err())
		}
		end() // the caller gives up
		synctest.Wait()
		if f.arriving.Len() != maxArriving-1 {
			t.Errorf("%d arrive after one has ended", f.arriving.Len())
		}
	})
}

func TestACallTooManyIsToRetry(t *testing.T) {
	f := &floodControl{maxArriving: maxArriving, running: maxRunning - 1}
	call := func(handler grpc.UnaryHandler) error {
		ctx, err := f.arrive(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.intercept(ctx, nil, nil, handler)
		return err
	}
	inner := func(context.Context, any) (any, error) { return nil, call(emptyHandler) }
	if err := call(inner); status.Code(err) != codes.Unavailable {
		t.Errorf("one too many: %v", err)
	}
	f.running = 0
	if err := call(inner); err != nil || f.running != 0 || f.arriving.Len() != 0 {
		t.Errorf("%v, %d running, %d arriving", err, f.running, f.arriving.Len())
	}
}

func FuzzCountFields(f *testing.F) {
	f.Add(marshal(f, benchmarkRequest()))
	f.Add(bytes.Repeat([]byte("\x1a\x00"), maxFields+1))
	f.Fuzz(func(t *testing.T, wire []byte) {
		for m := range requests(t) {
			countFields(wire, m.ProtoReflect().Descriptor(), maxFields)
		}
	})
}

// BenchmarkFloodControl measures what the bounds add to a call.
func BenchmarkFloodControl(b *testing.B) {
	f, request := &floodControl{maxArriving: maxArriving}, benchmarkRequest()
	wire := mem.BufferSlice{mem.SliceBuffer(marshal(b, request))}
	b.ReportAllocs()
	for b.Loop() {
		ctx, err := f.arrive(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		if countFields(wire[0].ReadOnlyData(), request.ProtoReflect().Descriptor(), maxFields) == 0 {
			b.Fatal("no fields")
		}
		if _, err := f.intercept(ctx, request, publishInfo, emptyHandler); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCall measures a whole call over a connection in memory.
func BenchmarkCall(b *testing.B) {
	e := newEdge(b, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.client.CreateVolume(b.Context(), &csi.CreateVolumeRequest{Name: "v"}); err != nil {
			b.Fatal(err)
		}
	}
}

// slowReader is a connection whose writes wait until the test lets them go on.
type slowReader struct {
	net.Addr
	written []func()
}

func (s *slowReader) Answer(size int64, written func(int64)) {
	s.written = append(s.written, func() { written(size) })
}

// contextStream is a stream of which only the context counts.
type contextStream struct {
	grpc.ServerStream

	ctx context.Context
}

func (s contextStream) Context() context.Context { return s.ctx }

func TestStreamIsACallUnderWay(t *testing.T) {
	f := &floodControl{maxArriving: maxArriving, running: maxRunning - 1}
	stream := func() contextStream {
		ctx, err := f.arrive(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return contextStream{ctx: ctx}
	}
	err := f.interceptStream(nil, stream(), nil, func(any, grpc.ServerStream) error {
		if n := f.arriving.Len(); n != 0 {
			t.Errorf("%d calls are arriving", n)
		}
		second := f.interceptStream(nil, stream(), nil, func(any, grpc.ServerStream) error { return nil })
		if status.Code(second) != codes.Unavailable {
			t.Errorf("one stream too many: %v", second)
		}
		return nil
	})
	if err != nil || f.running != maxRunning-1 {
		t.Errorf("%v, %d calls under way", err, f.running)
	}
}

func TestListsWaitForWhatTheirCallersHaveNotRead(t *testing.T) {
	f, reader := &floodControl{maxArriving: maxArriving}, &slowReader{}
	page := &csi.ListVolumesResponse{NextToken: strings.Repeat("x", maxPage/2)}
	list := func() error {
		ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: reader})
		ctx, err := f.arrive(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.intercept(ctx, &csi.ListVolumesRequest{}, nil,
			func(context.Context, any) (any, error) { return page, nil })
		return err
	}
	lists := 0
	for ; lists < 2*maxUnread/maxPage; lists++ {
		if err := list(); status.Code(err) == codes.Unavailable {
			break
		}
	}
	if lists < maxUnread/maxPage || lists == 2*maxUnread/maxPage {
		t.Errorf("%d pages of %d bytes are unread", lists, maxPage/2)
	}
	for _, written := range reader.written {
		written()
	}
	if err := list(); err != nil {
		t.Errorf("after all has been read: %v", err)
	}
	reader.written[len(reader.written)-1]()
	if f.unread != 0 {
		t.Errorf("%d bytes are unread in the end", f.unread)
	}
}
