package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeController chooses its answer by the name in the request.
type fakeController struct {
	csi.UnimplementedControllerServer
}

func (fakeController) CreateVolume(
	ctx context.Context, req *csi.CreateVolumeRequest,
) (*csi.CreateVolumeResponse, error) {
	klog.FromContext(ctx).Info("In the handler")
	switch req.GetName() {
	case "panic":
		panic("the handler fell")
	case "panic-request":
		panic(req)
	case "panic-index":
		_ = req.GetVolumeCapabilities()[3]
	case "busy":
		return nil, fmt.Errorf("%w: copying", volume.ErrBusy)
	case "broken":
		return nil, errors.New("the disk smokes")
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &csi.CreateVolumeResponse{
		Volume: &csi.Volume{VolumeId: testPool + "-" + req.GetName()},
	}, nil
}

// edge is a server with all interceptors and a fake controller, with its log and metrics.
type edge struct {
	client   csi.ControllerClient
	log      *process.Log
	registry *prometheus.Registry
}

func newEdge(t testing.TB, verbosity int, first ...grpc.ServerOption) edge {
	t.Helper()
	e := edge{log: &process.Log{}, registry: prometheus.NewRegistry()}
	logger := textlogger.NewLogger(
		textlogger.NewConfig(textlogger.Output(e.log), textlogger.Verbosity(verbosity)),
	)
	options := ServerOptions(Options{Logger: logger, Registerer: e.registry})
	server := NewServer(append(first, options...))
	csi.RegisterControllerServer(server, fakeController{})
	listener := bufconn.Listen(1 << 16)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient(
		"passthrough:///bufconn",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(
			func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) },
		),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		wg.Wait()
	})
	e.client = csi.NewControllerClient(conn)
	return e
}

// panicked is the message that a caller gets after a panic.
const panicked = "internal error: CreateVolume panicked; the driver's log has the stack"

func TestChain(t *testing.T) {
	tests := []struct {
		name    string
		req     *csi.CreateVolumeRequest
		code    codes.Code
		message string
		logs    []string
	}{
		{
			"success", &csi.CreateVolumeRequest{Name: "pvc-1"}, codes.OK, "",
			[]string{
				`"Call succeeded" method="CreateVolume" requestID=1 name="pvc-1" duration=`,
				`"In the handler" method="CreateVolume" requestID=1`,
			},
		},
		{
			"a sentinel",
			&csi.CreateVolumeRequest{Name: "busy"},
			codes.Aborted,
			"operation in progress: copying",
			[]string{
				`"Call failed" method="CreateVolume" requestID=1 name="busy" code="Aborted" err="operation in progress: copying"`,
			},
		},
		{
			"an unknown error",
			&csi.CreateVolumeRequest{Name: "broken"},
			codes.Internal,
			"the disk smokes",
			[]string{
				`"Call failed" err="the disk smokes" method="CreateVolume" requestID=1 name="broken" code="Internal"`,
			},
		},
		{
			"a panic", &csi.CreateVolumeRequest{Name: "panic"}, codes.Internal, panicked,
			[]string{`"Handler panicked"`, `panic="the handler fell"`, "server_test.go", `code="Internal"`},
		},
		{
			"a panic with secrets",
			&csi.CreateVolumeRequest{Name: "panic-request", Secrets: map[string]string{"p": secret}},
			codes.Internal,
			panicked,
			[]string{`panic="a value of type *csi.CreateVolumeRequest"`},
		},
		{
			"a runtime panic", &csi.CreateVolumeRequest{Name: "panic-index"}, codes.Internal, panicked,
			[]string{`panic="runtime error: index out of range [3] with length 0"`},
		},
		{
			"too long", &csi.CreateVolumeRequest{Name: strings.Repeat("x", 200)}, codes.InvalidArgument,
			`invalid argument: field name has 200 bytes, at most 128 are allowed (CSI spec, "Size Limits")`,
			[]string{`(200 bytes)" code="InvalidArgument"`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newEdge(t, 5)
			_, err := e.client.CreateVolume(t.Context(), tt.req)
			st := status.Convert(err)
			if st.Code() != tt.code || st.Message() != tt.message || len(st.Details()) != 0 {
				t.Errorf("got %v %q %v, want %v %q", st.Code(), st.Message(), st.Details(), tt.code, tt.message)
			}
			for _, want := range tt.logs {
				if !strings.Contains(e.log.String(), want) {
					t.Errorf("the log lacks %s:\n%s", want, e.log.String())
				}
			}
			if strings.Contains(e.log.String(), secret) {
				t.Errorf("the log has the secret:\n%s", e.log.String())
			}
			if got := handled(t, e.registry, tt.code); got != 1 {
				t.Errorf("metrics count %v calls with %v, want 1", got, tt.code)
			}
		})
	}
}

// handled returns grpc_server_handled_total for CreateVolume.
func handled(t *testing.T, registry *prometheus.Registry, code codes.Code) float64 {
	t.Helper()
	sum := 0.0
	for _, m := range family(t, registry, "grpc_server_handled_total").GetMetric() {
		for _, label := range m.GetLabel() {
			if label.GetName() == "grpc_code" && label.GetValue() == code.String() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func family(t *testing.T, registry *prometheus.Registry, name string) *dto.MetricFamily {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f
		}
	}
	t.Fatalf("no metric %s", name)
	return nil
}

func TestPanicIsCountedAndReleasesItsLock(t *testing.T) {
	e := newEdge(t, 0)
	for range 2 {
		if _, err := e.client.CreateVolume(
			t.Context(),
			&csi.CreateVolumeRequest{Name: "panic"},
		); status.Code(
			err,
		) != codes.Internal {
			t.Fatalf("got %v, want INTERNAL, and the second time too", err)
		}
	}
	if got := panics(t, e); got != 2 {
		t.Errorf("%v panics of CreateVolume, want 2", got)
	}
}

// panics returns the counter of panics for CreateVolume.
func panics(t *testing.T, e edge) float64 {
	t.Helper()
	for _, m := range family(t, e.registry, "csi_hostpath_rpc_panics_total").GetMetric() {
		if m.GetLabel()[0].GetValue() == "CreateVolume" {
			return m.GetCounter().GetValue()
		}
	}
	t.Fatal("no counter of panics for CreateVolume")
	return 0
}

// Prometheus sees no increase if a counter first appears with the value 1.
func TestCountersBeginWithZero(t *testing.T) {
	e := newEdge(t, 0)
	if got := panics(t, e); got != 0 {
		t.Errorf("%v panics at the start", got)
	}
}

func TestUnservedCallIsUnimplemented(t *testing.T) {
	e := newEdge(t, 0)
	_, err := e.client.ControllerExpandVolume(t.Context(),
		&csi.ControllerExpandVolumeRequest{VolumeId: testPool + "-v"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

func TestDeadlineReachesTheHandler(t *testing.T) {
	e := newEdge(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := e.client.CreateVolume(
		ctx,
		&csi.CreateVolumeRequest{Name: "slow"},
	); status.Code(
		err,
	) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

func TestSuccessIsQuietByDefault(t *testing.T) {
	e := newEdge(t, 2)
	if _, err := e.client.CreateVolume(
		t.Context(),
		&csi.CreateVolumeRequest{Name: "pvc-1"},
	); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(e.log.String(), "Call ") {
		t.Errorf("the log has %s", e.log.String())
	}
}

func TestDurationBucketsSpanPublishAndCopy(t *testing.T) {
	e := newEdge(t, 0)
	if _, err := e.client.CreateVolume(
		t.Context(),
		&csi.CreateVolumeRequest{Name: "pvc-1"},
	); err != nil {
		t.Fatal(err)
	}
	durations := family(t, e.registry, "grpc_server_handling_seconds").GetMetric()[0]
	b := durations.GetHistogram().GetBucket()
	if first, last := b[0].GetUpperBound(), b[len(b)-1].GetUpperBound(); first != 1e-4 || last != 100 {
		t.Errorf("buckets from %v to %v s, want 100 µs to 100 s", first, last)
	}
}
