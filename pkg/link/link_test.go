package link

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	serverName = "csi-hostpath-controller"
	driverName = "hostpath.csi.local"
	deadline   = time.Minute
)

// tokens is an Authenticator: it knows the node of each token.
type tokens map[string]string

func (t tokens) NodeOf(_ context.Context, token string) (string, error) {
	node, ok := t[token]
	if !ok {
		return "", errors.New("the token has expired")
	}
	return node, nil
}

// fleet is a Fleet that remembers what it is told.
type fleet struct {
	mu    sync.Mutex
	now   map[string]*Link
	all   []*Link
	ended map[*Link]error
}

func newFleet() *fleet { return &fleet{now: map[string]*Link{}, ended: map[*Link]error{}} }

func (f *fleet) Linked(l *Link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now[l.Node] = l
	f.all = append(f.all, l)
}

func (f *fleet) Unlinked(l *Link, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended[l] = why
	if f.now[l.Node] == l {
		delete(f.now, l.Node)
	}
}

// of is the link of a node, nil if it has none.
func (f *fleet) of(node string) *Link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now[node]
}

// endOf is why a link has ended, nil if it stands.
func (f *fleet) endOf(l *Link) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended[l]
}

// count is how many links there have been.
func (f *fleet) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.all)
}

// world has a controller, and what nodes need to link to it.
type world struct {
	t       testing.TB
	fleet   *fleet
	tokens  tokens
	server  *server
	address string
	ca      string
	stop    func() // the controller
}

// newController starts a controller on loopback. change may change it before it starts.
func newController(t testing.TB, change func(*server)) *world {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newControllerAt(t, listener, change)
}

func newControllerAt(t testing.TB, listener net.Listener, change func(*server)) *world {
	t.Helper()
	certificate, ca := authority(t)
	w := &world{t: t, fleet: newFleet(), tokens: tokens{"token-a": "node-a"}}
	w.ca = filepath.Join(t.TempDir(), "ca.crt")
	write(t, w.ca, ca)
	w.server = newServer(ServerOptions{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate, nil },
		Authenticator:  w.tokens,
		Fleet:          w.fleet,
		DriverName:     driverName,
		Version:        "1.0.0-test",
	})
	if change != nil {
		change(w.server)
	}
	w.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.server.serve(ctx, listener) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// authority makes a certificate that signs itself, and its PEM.
func authority(t testing.TB) (*tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: serverName},
		DNSNames:              []string{serverName},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// options are those of a node with a token.
func (w *world) options(node, token string) NodeOptions {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "token")
	write(w.t, file, []byte(token+"\n"))
	return NodeOptions{
		Address:       w.address,
		ServerName:    serverName,
		CAFile:        w.ca,
		TokenFile:     file,
		NodeName:      node,
		DriverName:    driverName,
		DriverVersion: "1.2.3",
	}
}

// quick are the times of a node that tries again at once.
func quick() nodeTiming {
	timing := defaultNodeTiming()
	timing.firstRetry, timing.lastRetry = 10*time.Millisecond, 50*time.Millisecond
	timing.lookup = 20 * time.Millisecond
	return timing
}

// controllerService is the service of a node.
type controllerService struct {
	csi.UnimplementedControllerServer
	node  string
	delay chan struct{} // a call waits until it is closed; nil: it does not
}

func (s controllerService) DeleteVolume(
	ctx context.Context, _ *csi.DeleteVolumeRequest,
) (*csi.DeleteVolumeResponse, error) {
	if s.delay != nil {
		select {
		case <-s.delay:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, status.Error(codes.NotFound, s.node)
}

// start starts a node that serves what it is given.
func (w *world) start(
	opts NodeOptions, timing nodeTiming, service csi.ControllerServer,
) *grpc.Server {
	w.t.Helper()
	listener, err := listen(opts, timing)
	if err != nil {
		w.t.Fatal(err)
	}
	server := grpc.NewServer(GRPCServerOptions()...)
	csi.RegisterControllerServer(server, service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	w.t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			w.t.Error(err)
		}
	})
	return server
}

func (w *world) eventually(what string, condition func() bool) {
	w.t.Helper()
	for end := time.Now().Add(deadline); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("after %v still not: %s", deadline, what)
		}
	}
}

// linked waits for a link of the node.
func (w *world) linked(node string) *Link {
	w.t.Helper()
	w.eventually(node+" is linked", func() bool { return w.fleet.of(node) != nil })
	return w.fleet.of(node)
}

// call calls a node, and says who has answered.
func call(ctx context.Context, l *Link) (string, error) {
	_, err := csi.NewControllerClient(l.Conn).DeleteVolume(ctx, &csi.DeleteVolumeRequest{})
	if status.Code(err) == codes.NotFound {
		return status.Convert(err).Message(), nil
	}
	return "", err
}

func TestControllerCallsANodeThatHasDialled(t *testing.T) {
	w := newController(t, nil)
	w.tokens["token-b"] = "node-b"
	for _, node := range []string{"a", "b"} {
		name := "node-" + node
		w.start(w.options(name, "token-"+node), quick(), controllerService{node: name})
		l := w.linked(name)
		if l.DriverVersion != "1.2.3" || l.Version != maxVersion || l.Since.IsZero() {
			t.Errorf("%+v", l)
		}
		if answered, err := call(t.Context(), l); err != nil || answered != name {
			t.Errorf("%q, %v", answered, err)
		}
	}
}
