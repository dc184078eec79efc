// Package controller runs the controller in the test's process, without Kubernetes: links and the
// router. Nodes link to it on loopback.
package controller

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/link"
	"github.com/csi-hostpath/csi-hostpath/pkg/link/certs"
	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/pkg/serving"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// DriverName is the driver's, if Options have none.
	DriverName = "hostpath.csi.local"
	// ServerName is the name in the controller's certificate.
	ServerName = "csi-hostpath-controller"

	// patience bounds how long the controller may take to start, and nodes to link.
	patience = time.Minute
	// grace is how long calls may take when the controller stops.
	grace = time.Second
)

// Controller is a controller that runs.
type Controller struct {
	Router *router.Router
	// Socket is where sidecars call, and Address where nodes link.
	Socket, Address string

	t     testing.TB
	dir   string
	fleet *fleet
}

// Start starts a controller, which stops when the test ends.
func Start(t testing.TB, opts router.Options) *Controller {
	t.Helper()
	if opts.DriverName == "" {
		opts.DriverName = DriverName
	}
	c := &Controller{Router: router.New(opts), t: t, dir: t.TempDir()}
	c.fleet = &fleet{Router: c.Router, linked: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		c.Router.Close()
	})
	issuer := certs.NewIssuer(certs.Options{Store: &store{bundle: c.CAFile()}, ServerName: ServerName})
	wg.Go(func() { issuer.Run(ctx) })
	c.wait("a certificate", func() bool { return issuer.Ready() == nil })

	links, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c.Address = links.Addr().String()
	wg.Go(func() {
		must(t, link.Serve(ctx, links, link.ServerOptions{
			GetCertificate: issuer.GetCertificate,
			Authenticator:  tokens{},
			Fleet:          c.fleet,
			DriverName:     opts.DriverName,
		}))
	})
	c.Socket = filepath.Join(c.dir, "csi.sock")
	sidecars, err := serving.Listen("unix://" + c.Socket)
	must(t, err)
	server := c.Router.NewServer()
	wg.Go(func() {
		if err := serving.GRPC(ctx, server, sidecars, grace); !errors.Is(err, serving.ErrCutOff) {
			must(t, err)
		}
	})
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// CAFile is the file of the CA that nodes trust.
func (c *Controller) CAFile() string { return filepath.Join(c.dir, "ca.crt") }

// TokenFile is the file of a node's token.
func (c *Controller) TokenFile(node string) string {
	path := filepath.Join(c.dir, "token-"+node)
	must(c.t, os.WriteFile(path, []byte(tokenPrefix+node), 0o600))
	return path
}

// Args are a driver's flags for links to this controller.
func (c *Controller) Args(node string) []string {
	return []string{
		"--controller-address", c.Address, "--controller-server-name", ServerName,
		"--controller-ca", c.CAFile(), "--controller-token", c.TokenFile(node),
	}
}

// WaitPool waits until the router knows which node has the pool.
func (c *Controller) WaitPool(id volume.PoolID) {
	c.t.Helper()
	c.wait("pool "+string(id), func() bool { _, known := c.Router.NodeOf(id); return known })
}

// WaitLinked waits until a node is linked.
func (c *Controller) WaitLinked(node string) {
	c.t.Helper()
	c.wait("a link of "+node, func() bool { return c.fleet.isLinked(node) })
}

func (c *Controller) wait(what string, is func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// fleet is the router, and remembers who is linked.
type fleet struct {
	*router.Router

	mu     sync.Mutex
	linked map[string]bool
}

// Linked implements link.Fleet.
func (f *fleet) Linked(l *link.Link) {
	f.Router.Linked(l)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.linked[l.Node] = true
}

func (f *fleet) isLinked(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.linked[node]
}

const tokenPrefix = "token of "

// tokens implements link.Authenticator: a token says whose it is.
type tokens struct{}

// NodeOf implements link.Authenticator.
func (tokens) NodeOf(_ context.Context, token string) (string, error) {
	node, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok {
		return "", errors.New("it is no token")
	}
	return node, nil
}

// store implements certs.Store in memory, and publishes to a file.
type store struct {
	bundle string

	mu      sync.Mutex
	data    []byte
	version int
}

// Load implements certs.Store.
func (s *store) Load(context.Context) (data []byte, version string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data, strconv.Itoa(s.version), nil
}

// Save implements certs.Store.
func (s *store) Save(_ context.Context, data []byte, version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if version != strconv.Itoa(s.version) {
		return certs.ErrConflict
	}
	s.data, s.version = data, s.version+1
	return nil
}

// Publish implements certs.Store.
func (s *store) Publish(_ context.Context, bundle []byte) error {
	return os.WriteFile(s.bundle, bundle, 0o600)
}
