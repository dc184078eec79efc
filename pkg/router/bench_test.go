package router_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/controllerserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/controller"
)

// BenchmarkCall compares a call at the node's socket with the same call at the router's socket,
// which goes through TLS on loopback to the node. ControllerGetVolume reads memory, and
// CreateVolume of a volume that exists does as well.
func BenchmarkCall(b *testing.B) {
	atNode, throughRouter := benchmarkClients(b)
	create := &csi.CreateVolumeRequest{
		Name:          "v",
		CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 20},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessMode: &csi.VolumeCapability_AccessMode{
				Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
			},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		}},
		AccessibilityRequirements: &csi.TopologyRequirement{Requisite: []*csi.Topology{
			{Segments: volume.Topology(controller.DriverName, "node-1")},
		}},
	}
	made, err := throughRouter.CreateVolume(b.Context(), create)
	if err != nil {
		b.Fatal(err)
	}
	get := &csi.ControllerGetVolumeRequest{VolumeId: made.GetVolume().GetVolumeId()}
	for _, at := range []struct {
		name   string
		client csi.ControllerClient
	}{{"at-the-node", atNode}, {"through-the-router", throughRouter}} {
		b.Run("get/"+at.name, func(b *testing.B) {
			measure(b, func() error {
				_, err := at.client.ControllerGetVolume(b.Context(), get)
				return err
			})
		})
		b.Run("create/"+at.name, func(b *testing.B) {
			measure(b, func() error {
				_, err := at.client.CreateVolume(b.Context(), create)
				return err
			})
		})
	}
}

// measure reports the median of the calls beside their mean.
func measure(b *testing.B, call func() error) {
	b.Helper()
	times := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		if err := call(); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2])/1e3, "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100])/1e3, "p99-µs")
}

// benchmarkClients starts a node and a controller, each with its socket.
func benchmarkClients(b *testing.B) (atNode, throughRouter csi.ControllerClient) {
	b.Helper()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	c := controller.Start(b, router.Options{})
	n := &node{}
	p, err := pool.Open(b.Context(),
		pool.Options{Name: "p", Path: filepath.Join(b.TempDir(), "p")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close() })
	n.pool = p
	links, err := link.Listen(link.NodeOptions{
		Address: c.Address, ServerName: controller.ServerName, CAFile: c.CAFile(),
		TokenFile: c.TokenFile("node-1"), NodeName: "node-1", DriverName: controller.DriverName,
	})
	if err != nil {
		b.Fatal(err)
	}
	socket := filepath.Join(b.TempDir(), "csi.sock")
	sidecars, err := serving.Listen("unix://" + socket)
	if err != nil {
		b.Fatal(err)
	}
	options := rpc.ServerOptions(rpc.Options{})
	n.serve(b, sidecars, rpc.NewServer(options))
	n.serve(b, links, rpc.NewServer(append(append(link.GRPCServerOptions(), rpc.TakeRequestIDs()),
		options...)))
	c.WaitLinked("node-1")
	c.WaitPool(p.ID())
	return dial(b, socket), dial(b, c.Socket)
}

func dial(b *testing.B, socket string) csi.ControllerClient {
	b.Helper()
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return csi.NewControllerClient(conn)
}

// node is a node with one pool. It implements controllerserver.Pools and linkpb.NodeServer.
type node struct {
	linkpb.UnimplementedNodeServer

	pool *pool.Pool
}

func (n *node) serve(b *testing.B, listener net.Listener, server *grpc.Server) {
	b.Helper()
	csi.RegisterControllerServer(server, controllerserver.New(controllerserver.Options{
		Topology: volume.Topology(controller.DriverName, "node-1"), Pools: n, Publications: n,
	}))
	linkpb.RegisterNodeServer(server, n)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	b.Cleanup(func() {
		server.Stop()
		wg.Wait()
	})
}

// Watch implements linkpb.NodeServer.
func (n *node) Watch(
	_ *linkpb.WatchRequest, stream grpc.ServerStreamingServer[linkpb.State],
) error {
	id := string(n.pool.ID())
	err := stream.Send(&linkpb.State{Pools: []*linkpb.Pool{{
		Name: "p", IsDefault: true, Uuid: id[:8] + "-" + id[8:] + "-4000-8000-000000000000",
		SizeBytes: 1 << 40, AvailableBytes: 1 << 39,
	}}})
	<-stream.Context().Done()
	return err
}

func (n *node) ByID(volume.PoolID) (*pool.Pool, error)               { return n.pool, nil }
func (n *node) ByName(string) (*pool.Pool, error)                    { return n.pool, nil }
func (n *node) Open() []*pool.Pool                                   { return []*pool.Pool{n.pool} }
func (*node) Complete() error                                        { return nil }
func (n *node) Known() []health.Pool                                 { return known(n.pool) }
func (n *node) Candidates(volume.PoolID) ([]health.Pool, error)      { return n.Known(), nil }
func (*node) CheckUnused(context.Context, volume.ID, *os.File) error { return nil }

func known(p *pool.Pool) []health.Pool { return []health.Pool{{Name: "p", Pool: p}} }
