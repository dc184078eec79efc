package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/csi-hostpath/csi-hostpath/pkg/controllerserver"
	"github.com/csi-hostpath/csi-hostpath/pkg/health"
	"github.com/csi-hostpath/csi-hostpath/pkg/hostpath"
	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// driverName is the driver of the simulated nodes.
const driverName = "fleet.csi.local"

// node is a simulated node: one pool, the real Controller service, and real links.
type node struct {
	name    string
	pool    *pool.Pool
	service *controllerserver.Server
	state   *state
	tries   *tries

	server *grpc.Server
	links  *link.Listener
	served chan error
}

// nodeOptions say how a node is made.
type nodeOptions struct {
	name string
	// pool is the directory of its pool. Empty: it has none, but tells the controller of one.
	pool string
	// files has the CA and the node's token.
	files string
	// controller is host:port, and lookup what the host resolves to.
	controller string
	lookup     func(context.Context, string) ([]netip.Addr, error)
	// address is the node's own.
	address netip.Addr
	// calls are what a node's server does with each call (rpc.ServerOptions). All nodes share them.
	calls []grpc.ServerOption
	tries *tries
}

// newNode opens the node's pool and serves it on links. The caller closes the node.
func newNode(ctx context.Context, o nodeOptions) (*node, error) {
	n := &node{name: o.name, tries: o.tries, served: make(chan error, 1)}
	if err := n.openPool(ctx, o.pool); err != nil {
		return nil, err
	}
	n.service = controllerserver.New(controllerserver.Options{
		Topology:     volume.Topology(driverName, o.name),
		Pools:        onePool{n.pool},
		Publications: nothingPublished{},
		Host:         hostpath.NewHost("/", nil),
	})
	n.server = n.newServer(o)
	var err error
	n.links, err = link.Listen(link.NodeOptions{ //nolint:contextcheck // they end with the listener
		Address:       o.controller,
		ServerName:    serverName,
		CAFile:        filepath.Join(o.files, caFile),
		TokenFile:     filepath.Join(o.files, o.name),
		NodeName:      o.name,
		DriverName:    driverName,
		DriverVersion: "fleet",
		Lookup:        o.lookup,
		Dial:          dialFrom(o.address),
	})
	if err != nil {
		return nil, errors.Join(err, n.closePool())
	}
	go func() { n.served <- ignoreClosed(n.server.Serve(n.links)) }()
	return n, nil
}

func (n *node) newServer(o nodeOptions) *grpc.Server {
	options := append(link.GRPCServerOptions(), o.calls...)
	server := rpc.NewServer(append(options, grpc.ChainUnaryInterceptor(n.observe)))
	csi.RegisterControllerServer(server, n.service)
	linkpb.RegisterNodeServer(server, n.state)
	return server
}

// observe counts the tries to make a volume, and tells the controller what calls have changed.
func (n *node) observe(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	if create, is := req.(*csi.CreateVolumeRequest); is {
		n.tries.add(create.GetName())
	}
	resp, err := handle(ctx, req)
	switch req.(type) {
	case *csi.CreateVolumeRequest, *csi.DeleteVolumeRequest:
		n.state.changed()
	}
	return resp, err
}

// close ends the links and closes the pool.
func (n *node) close() error {
	err := n.links.Close()
	n.server.Stop()
	err = errors.Join(err, <-n.served)
	return errors.Join(err, n.closePool())
}

// dialFrom connects from an address: the controller bounds what one address may do at a time.
func dialFrom(address netip.Addr) func(context.Context, string, string) (net.Conn, error) {
	own := net.TCPAddrFromAddrPort(netip.AddrPortFrom(address, 0))
	return (&net.Dialer{LocalAddr: own}).DialContext
}

// ignoreClosed is no error when the listener was closed, which is how serving ends.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// openPool opens the pool, and gets the state from it.
func (n *node) openPool(ctx context.Context, path string) (err error) {
	if path == "" {
		n.state = newState(nil)
		return nil
	}
	n.pool, err = pool.Open(ctx, pool.Options{Name: poolName, Path: path})
	n.state = newState(n.pool)
	return err
}

func (n *node) closePool() error {
	if n.pool == nil {
		return nil
	}
	return n.pool.Close()
}

// poolName is the name of each node's only pool.
const poolName = "default"

// onePool implements controllerserver.Pools.
type onePool struct{ pool *pool.Pool }

func (o onePool) ByID(id volume.PoolID) (*pool.Pool, error) {
	if o.pool == nil || id != o.pool.ID() {
		return nil, volume.ErrNotFound
	}
	return o.pool, nil
}

func (o onePool) ByName(name string) (*pool.Pool, error) {
	if o.pool == nil || name != "" && name != poolName {
		return nil, volume.ErrNotFound
	}
	return o.pool, nil
}

func (o onePool) Open() []*pool.Pool {
	if o.pool == nil {
		return nil
	}
	return []*pool.Pool{o.pool}
}

func (onePool) Complete() error { return nil }

func (o onePool) Known() []health.Pool {
	return []health.Pool{{Name: "p", Pool: o.pool, IsOptional: o.pool == nil}}
}

func (o onePool) Candidates(volume.PoolID) ([]health.Pool, error) { return o.Known(), nil }

// nothingPublished implements controllerserver.Publications: no kubelet mounts these volumes.
type nothingPublished struct{}

func (nothingPublished) CheckUnused(context.Context, volume.ID, *os.File) error { return nil }
