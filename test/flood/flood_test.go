// Package flood sends the driver more than it has memory for, on each of its listeners, inside a
// control group with the memory limit of the chart.
package flood

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

const (
	// floodTime is how long a flood goes on while the regular client calls.
	floodTime = 3 * time.Second
	// enough is how many answers in a row show that the regular client is served.
	enough = 20
)

var driverBinary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "flood")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if driverBinary, err = process.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// node is a driver with every listener, in a control group.
type node struct {
	t       *testing.T
	driver  *process.Process
	group   memoryGroup
	log     *process.Log
	metrics string // host:port
	sidecar string // the sidecars' socket
}

func newNode(t *testing.T) *node {
	t.Helper()
	group := newMemoryGroup(t)
	// A socket's path has few bytes, and t.TempDir has the test's name in it.
	dir, err := os.MkdirTemp("", "flood") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &node{
		t: t, group: group, log: &process.Log{},
		metrics: fmt.Sprintf("127.77.%d.%d:19099", os.Getpid()>>8&0xff, os.Getpid()&0xff),
		sidecar: filepath.Join(dir, "sidecars.sock"),
	}
	registry := filepath.Join(dir, "kubelet", "plugins_registry")
	if err := os.MkdirAll(registry, 0o750); err != nil {
		t.Fatal(err)
	}
	f.driver, err = process.StartReady(t.Context(), process.Options{
		Binary: driverBinary, Dir: dir, Pools: map[string]string{"p": filepath.Join(dir, "pool")},
		Args: []string{
			"--metrics-address", f.metrics, "--sidecar-endpoint", "unix://" + f.sidecar,
			"--register-with-kubelet",
		},
		Log: f.log, ControlGroup: group.dir,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, f.log)
	}
	t.Cleanup(f.end)
	return f
}

func (f *node) end() {
	f.t.Logf("most memory in use: %d MiB; %s", f.group.peakBytes()>>20, f.resident())
	if err := f.driver.Kill(); err != nil {
		f.t.Error(err)
	}
	if f.t.Failed() {
		text := f.log.String()
		f.t.Logf("the driver's log ends:\n%s", text[max(0, len(text)-4000):])
	}
}

// resident is the line of proc_pid_status(5) with the most memory that the process itself had.
func (f *node) resident() string {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.driver.PID()))
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	peak, _, _ = strings.Cut(peak, "\n")
	return "VmHWM:" + peak
}

// withstands runs the attackers, each again and again, and wants the regular client answered
// meanwhile and the driver alive afterwards.
func (f *node) withstands(
	attackers int, attack func(ctx context.Context) error, regular func() error,
) {
	f.t.Helper()
	ctx, stop := context.WithTimeout(f.t.Context(), floodTime)
	defer stop()
	var wg sync.WaitGroup
	for range attackers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if attack(ctx) != nil { // the driver has cut it off
					time.Sleep(10 * time.Millisecond) // no poll: the pace of an attacker
				}
			}
		})
	}
	// No poll: a flood has no state that could be asked for. Too early is only less hard.
	time.Sleep(floodTime / 4)
	f.answers(ctx, regular)
	wg.Wait()
	f.answers(f.t.Context(), regular)
}

// answers wants enough answers in a row; a call may fail, and is made again, as clients do.
func (f *node) answers(ctx context.Context, regular func() error) {
	f.t.Helper()
	deadline, failed := time.Now().Add(fixture.Patience()), 0
	for answered := 0; answered < enough; {
		select {
		case <-f.driver.Exited():
			f.t.Fatal("the driver was killed")
		default:
		}
		err := regular()
		if err == nil {
			answered++
			continue
		}
		if failed++; time.Now().After(deadline) {
			f.t.Fatalf("%d answers, %d failures, the last: %v", answered, failed, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if ctx.Err() == nil {
		f.t.Logf("under the flood: %d answers, %d failures", enough, failed)
	}
}

// get asks for a page as kubelet's prober does, from an address that no attacker has.
func (f *node) get(path string) error {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	client := http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true},
	}
	resp, err := client.Get("http://" + f.metrics + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s, %w", path, resp.Status, err)
	}
	return nil
}

func (f *node) pages() error {
	return errors.Join(f.get("/healthz"), f.get("/readyz"), f.get("/metrics"))
}

// hold keeps a connection until the flood ends or the driver closes it.
func hold(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_, _ = io.Copy(io.Discard, conn)
}

func (f *node) dialMetrics(source net.IP) (net.Conn, error) {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: source}, Timeout: 5 * time.Second}
	conn, err := dialer.Dial("tcp", f.metrics)
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(floodTime + fixture.Patience()))
	}
	return conn, err
}

func TestUnfinishedHeadersCostThePodsThatSendThemTheirConnections(t *testing.T) {
	f := newNode(t)
	header := "GET /metrics HTTP/1.1\r\nHost: driver\r\nX-Long: " + strings.Repeat("x", 1<<20)
	f.withstands(300, func(ctx context.Context) error {
		conn, err := f.dialMetrics(net.IPv4(127, 0, 0, 2))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, header); err != nil {
			return err
		}
		hold(ctx, conn)
		return io.EOF
	}, f.pages)
}

func TestPagesThatNobodyReads(t *testing.T) {
	f := newNode(t)
	request := "GET /metrics HTTP/1.1\r\nHost: driver\r\nAccept-Encoding: gzip\r\n\r\n"
	f.withstands(300, func(ctx context.Context) error {
		conn, err := f.dialMetrics(net.IPv4(127, 0, 0, 2))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}, f.pages)
}

// calls begins one call after another on a connection, each with that message, and reads no answer.
// end says that the messages are whole. It holds the connection until the flood ends.
type calls struct {
	socket, method string
	message        []byte
	end            bool
	number         uint32
}

func (f calls) attack(ctx context.Context) error {
	c, err := dialRaw(ctx, f.socket)
	if c != nil {
		defer c.conn.Close()
	}
	if err != nil {
		return err
	}
	go c.discard()
	for stream := uint32(0); stream < f.number && ctx.Err() == nil; stream++ {
		if err := c.open(stream, f.method, f.message, f.end); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// unfinished is calls with most of their messages, which never end.
func unfinished(ctx context.Context, socket, method string) error {
	body := message(60<<10, make([]byte, 50<<10))
	return calls{socket: socket, method: method, message: body, number: 1000}.attack(ctx)
}

// whole is calls whose messages are small on the wire and large in memory: field 3 of
// ValidateVolumeCapabilitiesRequest is an empty capability, 2 bytes each.
func whole(ctx context.Context, socket, method string) error {
	const fields = 30 << 10
	body := message(2*fields, []byte(strings.Repeat("\x1a\x00", fields)))
	return calls{socket, method, body, true, math.MaxInt32}.attack(ctx)
}

func grpcClient(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithIdleTimeout(0))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func volumeRequest(name string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 1 << 20},
		VolumeCapabilities: []*csi.VolumeCapability{fixture.MountCapability("")},
	}
}

// provision is what a sidecar does with its connection, which it keeps for as long as it lives.
func provision(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	controller := csi.NewControllerClient(conn)
	made, err := controller.CreateVolume(ctx, volumeRequest("pvc-1"))
	if err != nil {
		return err
	}
	_, err = controller.DeleteVolume(ctx,
		&csi.DeleteVolumeRequest{VolumeId: made.GetVolume().GetVolumeId()})
	return err
}

// callOnce connects for one call, as kubelet does (pkg/volume/csi/csi_client.go).
func callOnce(
	t *testing.T, socket string, call func(context.Context, *grpc.ClientConn) error,
) error {
	t.Helper()
	conn := grpcClient(t, socket)
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return call(ctx, conn)
}

func nodeInfo(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := csi.NewNodeClient(conn).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	return err
}

func pluginInfo(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := registerapi.NewRegistrationClient(conn).GetInfo(ctx, &registerapi.InfoRequest{})
	return err
}

func TestASidecarThatFloodsItsSocketHoldsUpNoOther(t *testing.T) {
	for name, attack := range floods(csi.Controller_ValidateVolumeCapabilities_FullMethodName) {
		t.Run(name, func(t *testing.T) {
			f := newNode(t)
			conn := grpcClient(t, f.sidecar)
			defer func() { _ = conn.Close() }()
			if err := provision(t, conn); err != nil {
				t.Fatal(err)
			}
			f.withstands(100, func(ctx context.Context) error { return attack(ctx, f.sidecar) },
				func() error {
					// kubelet has a socket of its own
					return errors.Join(provision(t, conn), callOnce(t, f.driver.Socket(), nodeInfo))
				})
		})
	}
}

// An answer stays in memory until its caller reads it, and the largest answer is a page of volumes.
func TestASidecarThatReadsNoAnswersHoldsUpNoOther(t *testing.T) {
	f := newNode(t)
	conn := grpcClient(t, f.sidecar)
	defer func() { _ = conn.Close() }()
	for i := range 1000 {
		if _, err := csi.NewControllerClient(conn).CreateVolume(t.Context(),
			volumeRequest(fmt.Sprintf("pvc-6f2c1e80-7d0c-4a2f-9b1e-%012d", i))); err != nil {
			t.Fatal(err)
		}
	}
	list := calls{
		socket: f.sidecar, method: csi.Controller_ListVolumes_FullMethodName,
		message: message(0, nil), end: true, number: math.MaxInt32,
	}
	f.withstands(100, list.attack, func() error {
		return errors.Join(provision(t, conn), callOnce(t, f.driver.Socket(), nodeInfo))
	})
}

func TestAFloodOfKubeletsSocketDoesNotKeepKubeletOut(t *testing.T) {
	for name, attack := range floods(csi.Controller_ValidateVolumeCapabilities_FullMethodName) {
		t.Run(name, func(t *testing.T) {
			f := newNode(t)
			f.withstands(600, func(ctx context.Context) error { return attack(ctx, f.driver.Socket()) },
				func() error { return callOnce(t, f.driver.Socket(), nodeInfo) })
		})
	}
}

func TestAFloodOfTheRegistrationSocketDoesNotKeepKubeletOut(t *testing.T) {
	for name, attack := range floods(registerapi.Registration_GetInfo_FullMethodName) {
		t.Run(name, func(t *testing.T) {
			f := newNode(t)
			socket := filepath.Join(f.driver.KubeletDir(), "plugins_registry",
				"hostpath.csi.local-reg.sock")
			f.withstands(100, func(ctx context.Context) error { return attack(ctx, socket) },
				func() error { return callOnce(t, socket, pluginInfo) })
		})
	}
}

func floods(method string) map[string]func(ctx context.Context, socket string) error {
	return map[string]func(ctx context.Context, socket string) error{
		"unfinished messages": func(ctx context.Context, socket string) error {
			return unfinished(ctx, socket, method)
		},
		"many small fields": func(ctx context.Context, socket string) error {
			return whole(ctx, socket, method)
		},
		"connections without a word": func(ctx context.Context, socket string) error {
			conn, err := net.Dial("unix", socket)
			if err != nil {
				return err
			}
			defer conn.Close()
			hold(ctx, conn)
			return io.EOF
		},
	}
}
