package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
)

// echo is a node's service. A volume is as long as its name, and has it as its ID.
type echo struct {
	csi.UnimplementedControllerServer
	linkpb.UnimplementedNodeServer

	ended chan error // of the contexts of calls that hang
}

// The names of volumes that are answered in another way.
const (
	hang      = "hang"
	fail      = "fail"
	badText   = "100% of the space on »/a\nb« is used"
	requestID = "x-request-id"
)

func (e *echo) CreateVolume(
	ctx context.Context, req *csi.CreateVolumeRequest,
) (*csi.CreateVolumeResponse, error) {
	switch req.GetName() {
	case hang:
		<-ctx.Done()
		e.ended <- ctx.Err()
		return nil, ctx.Err()
	case fail:
		return nil, status.Error(codes.ResourceExhausted, badText)
	case requestID:
		values := metadata.ValueFromIncomingContext(ctx, requestID)
		return &csi.CreateVolumeResponse{
			Volume: &csi.Volume{VolumeId: strings.Join(values, ",")},
		}, nil
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: req.GetName(), CapacityBytes: int64(len(req.GetName())),
	}}, nil
}

// ValidateVolumeCapabilities answers with as many bytes as the volume's ID says.
func (e *echo) ValidateVolumeCapabilities(
	_ context.Context, req *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	n, err := strconv.Atoi(req.GetVolumeId())
	return &csi.ValidateVolumeCapabilitiesResponse{Message: strings.Repeat("x", n)}, err
}

func (e *echo) Watch(
	_ *linkpb.WatchRequest, stream grpc.ServerStreamingServer[linkpb.State],
) error {
	for n := range int64(1000) {
		state := &linkpb.State{Pools: []*linkpb.Pool{{
			Name: strings.Repeat("p", int(n)), Volumes: n,
		}}}
		if err := stream.Send(state); err != nil {
			return err
		}
	}
	return status.Error(codes.DataLoss, "no more")
}

// echoing links a node with that service, with the windows and bounds of a driver's.
func echoing(t *testing.T) (*Link, *echo) {
	t.Helper()
	w := newController(t, nil)
	e := &echo{ended: make(chan error, 100)}
	listener, err := listen(w.options("node-a", "token-a"), quick())
	if err != nil {
		t.Fatal(err)
	}
	const window = 64 << 10
	server := grpc.NewServer(append(GRPCServerOptions(), grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window), grpc.MaxConcurrentStreams(20))...)
	csi.RegisterControllerServer(server, e)
	linkpb.RegisterNodeServer(server, e)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w.linked("node-a"), e
}

func create(ctx context.Context, l *Link, name string) (*csi.Volume, error) {
	client := csi.NewControllerClient(l.Conn)
	resp, err := client.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: name})
	return resp.GetVolume(), err
}

func TestMessagesOfAllSizesGoThrough(t *testing.T) {
	l, _ := echoing(t)
	for _, n := range []int{
		0, 1, 100, frameBytes - 10, frameBytes, windowBytes, windowBytes + 1, 1 << 20,
	} {
		name := strings.Repeat("n", n)
		v, err := create(t.Context(), l, name)
		if err != nil || v.GetVolumeId() != name {
			t.Errorf("a request of %d bytes: %v, an answer of %d", n, err, len(v.GetVolumeId()))
		}
	}
}

func TestAnswerThatIsTooLargeIsAnErrorOfItsCall(t *testing.T) {
	l, _ := echoing(t)
	client := csi.NewControllerClient(l.Conn)
	for range 3 {
		_, err := client.ValidateVolumeCapabilities(t.Context(),
			&csi.ValidateVolumeCapabilitiesRequest{VolumeId: strconv.Itoa(3 << 20)})
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a large answer: %v", err)
		}
		if _, err := create(t.Context(), l, "v"); err != nil {
			t.Errorf("the call after it: %v", err)
		}
	}
}

func TestErrorOfTheNodeArrivesAsItIs(t *testing.T) {
	l, _ := echoing(t)
	_, err := create(t.Context(), l, fail)
	if status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != badText {
		t.Errorf("%v", err)
	}
	_, err = csi.NewControllerClient(l.Conn).GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a call that the node does not have: %v", err)
	}
}

func TestDeadlineCancellationAndMetadataReachTheNode(t *testing.T) {
	l, e := echoing(t)
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := create(ctx, l, hang); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the deadline: %v", err)
	}
	if err := <-e.ended; err == nil {
		t.Error("the node's call goes on after its deadline")
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := create(ctx, l, hang); status.Code(err) != codes.Canceled {
		t.Errorf("the cancellation: %v", err)
	}
	if err := <-e.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the node's call: %v", err)
	}
	ctx = metadata.AppendToOutgoingContext(t.Context(), requestID, "12ab-7")
	if v, err := create(ctx, l, requestID); err != nil || v.GetVolumeId() != "12ab-7" {
		t.Errorf("the metadata: %v, %v", v, err)
	}
}

func TestTimeoutHasAtMostEightDigits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:            "0u",
		time.Nanosecond:         "1u",
		1500 * time.Microsecond: "1500u",
		99 * time.Second:        "99000000u",
		100 * time.Second:       "100000m",
		100 * time.Hour:         "360000S",
		1<<63 - 1:               "2562047H",
	} {
		if got := timeout(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestStreamHasAllAnswersAndItsError(t *testing.T) {
	l, _ := echoing(t)
	stream, err := linkpb.NewNodeClient(l.Conn).Watch(t.Context(), &linkpb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(1000) {
		state, err := stream.Recv()
		if err != nil || state.GetPools()[0].GetVolumes() != n {
			t.Fatalf("answer %d: %v, %v", n, state, err)
		}
	}
	if _, err := stream.Recv(); status.Code(err) != codes.DataLoss {
		t.Errorf("the end: %v", err)
	}
}

func TestStreamThatNobodyWantsEnds(t *testing.T) {
	l, _ := echoing(t)
	for range 50 { // the node allows fewer at a time
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := linkpb.NewNodeClient(l.Conn).Watch(ctx, &linkpb.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel()
		for ; err == nil; _, err = stream.Recv() {
			continue
		}
		// What had arrived before may be all.
		if code := status.Code(err); code != codes.Canceled && code != codes.DataLoss {
			t.Fatal(err)
		}
	}
}

func TestMoreCallsThanTheNodeAllowsAreToRetry(t *testing.T) {
	l, _ := echoing(t)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := create(t.Context(), l, "the node has sent its settings"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make(chan error, 25)
	for range cap(errs) {
		wg.Go(func() {
			_, err := create(ctx, l, hang)
			errs <- err
		})
	}
	for range 5 { // of 25, 20 hang
		if err := <-errs; status.Code(err) != codes.Unavailable {
			t.Errorf("one too many: %v", err)
		}
	}
	cancel()
	wg.Wait()
}

func TestManyCallsAtATime(t *testing.T) {
	l, _ := echoing(t)
	var wg sync.WaitGroup
	for n := range 15 {
		wg.Go(func() {
			for i := range 50 {
				name := strings.Repeat(strconv.Itoa(n), i*i)
				if v, err := create(t.Context(), l, name); err != nil || v.GetVolumeId() != name {
					t.Errorf("call %d of %d: %v", i, n, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestNodeThatStopsAnswersItsCallsAndTakesNoMore(t *testing.T) {
	w := newController(t, nil)
	delay := make(chan struct{})
	begun := make(chan struct{}, 100)
	server := w.start(w.options("node-a", "token-a"), quick(),
		endings{controllerService{node: "node-a", delay: delay}, begun})
	l := w.linked("node-a")
	answered := make(chan error, 1)
	go func() {
		_, err := call(context.Background(), l)
		answered <- err
	}()
	<-begun
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		server.GracefulStop()
	}()
	w.eventually("the node takes no more calls", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := call(ctx, l)
		return status.Code(err) == codes.Unavailable
	})
	close(delay)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	<-stopped
}

// bytesConn is a connection on which a peer has sent bytes, and reads nothing.
type bytesConn struct {
	net.Conn
	io.Reader
}

func (c bytesConn) Read(p []byte) (int, error)       { return c.Reader.Read(p) }
func (bytesConn) Write(p []byte) (int, error)        { return len(p), nil }
func (bytesConn) SetWriteDeadline(_ time.Time) error { return nil }

// FuzzClient has a node send anything: the client must not panic, and calls must end.
func FuzzClient(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x05\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		c, err := newClient("node", bytesConn{Reader: bytes.NewReader(sent)}, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.begin(t.Context(), "/a/b", &csi.DeleteVolumeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		c.end(c.read())
		for err = nil; err == nil; err = s.receive(t.Context(), &csi.DeleteVolumeResponse{}) {
			continue
		}
	})
}
