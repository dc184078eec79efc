package link

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
)

// nodesEnv has a test binary be nodes: their number, the controller's address and the CA's file.
const nodesEnv = "CSI_HOSTPATH_TEST_NODES"

// BenchmarkNodes measures nothing: it is the process of the nodes of BenchmarkLinks.
func BenchmarkNodes(b *testing.B) {
	arguments := strings.Fields(os.Getenv(nodesEnv))
	if len(arguments) != 3 {
		b.Skip("only BenchmarkLinks needs nodes")
	}
	n, err := strconv.Atoi(arguments[0])
	if err != nil {
		b.Fatal(err)
	}
	w := &world{t: b, address: arguments[1], ca: arguments[2]}
	server := grpc.NewServer(GRPCServerOptions()...)
	linkpb.RegisterNodeServer(server, pusher{})
	var wg sync.WaitGroup
	for i := range n {
		name := "node-" + strconv.Itoa(i)
		listener, err := Listen(w.options(name, name))
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() { _ = server.Serve(listener) }) // it ends with the server
	}
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // ends with the benchmark
	server.Stop()
	wg.Wait()
}

// pusher pushes a state once.
type pusher struct{ linkpb.UnimplementedNodeServer }

func (pusher) Watch(
	_ *linkpb.WatchRequest, stream grpc.ServerStreamingServer[linkpb.State],
) error {
	state := &linkpb.State{Pools: []*linkpb.Pool{{Name: "pool", Uuid: strings.Repeat("0", 36)}}}
	if err := stream.Send(state); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// anyNode is an Authenticator for which a token is a node's name.
type anyNode struct{}

func (anyNode) NodeOf(_ context.Context, token string) (string, error) { return token, nil }

// watcher is a Fleet that follows each node's state, as the router does.
type watcher struct {
	*fleet

	watches sync.WaitGroup
	pushed  atomic.Int64
}

func (w *watcher) Linked(l *Link) {
	w.fleet.Linked(l)
	w.watches.Go(func() {
		stream, err := linkpb.NewNodeClient(l.Conn).Watch(context.Background(), &linkpb.WatchRequest{})
		for n := 0; err == nil; n++ {
			if _, err = stream.Recv(); n == 0 && err == nil {
				w.pushed.Add(1)
			}
		}
	})
}

// BenchmarkLinks says how long a controller takes until all nodes are linked, and what a link
// costs it, with its stream and that stream's goroutine.
func BenchmarkLinks(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for b.Loop() {
				measureLinks(b, n)
			}
		})
	}
}

func measureLinks(b *testing.B, n int) {
	b.Helper()
	w := &watcher{fleet: newFleet()}
	controller := newController(b, func(s *server) {
		s.opts.Authenticator, s.opts.Fleet = anyNode{}, w
		s.waiting = newWaiting(n) // here all nodes have one address
	})
	before := memory(b)
	executable, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	nodes := exec.CommandContext(b.Context(), executable, "-test.run=^$",
		"-test.bench=^BenchmarkNodes$", "-test.benchtime=1x")
	nodes.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s", nodesEnv, n, controller.address,
		controller.ca))
	stop, err := nodes.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	output := &bytes.Buffer{}
	nodes.Stdout, nodes.Stderr = output, output
	start := time.Now()
	if err := nodes.Start(); err != nil {
		b.Fatal(err)
	}
	controller.eventually("all nodes have pushed", func() bool { return w.pushed.Load() >= int64(n) })
	b.ReportMetric(time.Since(start).Seconds(), "s-until-linked")
	after := memory(b)
	if w.count() != n {
		b.Errorf("%d links for %d nodes", w.count(), n)
	}
	for _, m := range []struct {
		unit          string
		before, after float64
	}{
		{"heap-B/link", before.heap, after.heap},
		{"stack-B/link", before.stack, after.stack},
		{"resident-B/link", before.resident, after.resident},
		{"goroutines/link", before.goroutines, after.goroutines},
	} {
		b.ReportMetric((m.after-m.before)/float64(n), m.unit)
	}
	b.ReportMetric(after.resident/(1<<20), "resident-MiB")
	controller.stop()
	w.watches.Wait()
	stop.Close()
	if err := nodes.Wait(); err != nil {
		b.Fatalf("%v: %s", err, output)
	}
}

type usage struct{ heap, stack, resident, goroutines float64 }

// memory is what the process uses once the garbage is collected.
func memory(b *testing.B) usage {
	b.Helper()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return usage{
		float64(m.HeapAlloc),
		float64(m.StackInuse),
		float64(pages * int64(os.Getpagesize())),
		float64(runtime.NumGoroutine()),
	}
}
