package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
)

// NodeOptions says where the controller is, and who the node is.
type NodeOptions struct {
	// Address is host:port. The node has a link to each address that the host's name resolves to.
	// Required.
	Address string
	// ServerName is the name in the controller's certificate. Required.
	ServerName string
	// CAFile has the certificates that the controller's certificate may come from (PEM), and TokenFile
	// the token that proves the node's name. Both are read for each link. Required.
	CAFile, TokenFile string
	// NodeName is the node's name in Kubernetes. Required.
	NodeName string
	// DriverName and DriverVersion are the driver's. Required.
	DriverName, DriverVersion string
	// Logger takes the log. Default: klog.Background().
	Logger klog.Logger
	// Lookup resolves the host's name. Default: net.DefaultResolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Dial makes the connections. Default: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	versions versions // of the link; default: those of this code
}

// nodeTiming has what tests shorten.
type nodeTiming struct {
	// lookup is the time between two lookups of the host's name. While all addresses are linked it
	// grows to restedLookup, twice as long each time.
	lookup, restedLookup time.Duration
	// firstRetry and lastRetry are how long a node waits after a link that failed: twice as long each
	// time.
	firstRetry, lastRetry time.Duration
	// settled is how long a link lasts that did not fail.
	settled time.Duration
	// drain is how long a link stays open after the next one stands, if the controller leaves it open.
	drain time.Duration
}

func defaultNodeTiming() nodeTiming {
	return nodeTiming{
		lookup:       5 * time.Second,
		restedLookup: time.Minute, // the cluster's DNS serves all nodes
		firstRetry:   time.Second,
		lastRetry:    15 * time.Second, // after its restart a controller has all nodes within 30 s
		settled:      time.Minute,
		drain:        11 * time.Minute, // longer than the controller's
	}
}

const (
	// pingAfter is how long the controller hears nothing before it pings.
	pingAfter = 10 * time.Second
	// pingTimeout is how long either side waits for the answer.
	pingTimeout = 8 * time.Second
	// nodePingAfter is longer than pingAfter, so that of an idle link only one side pings.
	nodePingAfter = 11 * time.Second
	// minPing is the shortest time between two pings that a node accepts.
	minPing = 5 * time.Second
)

// linkTimeout bounds the handshake: it is longer than what the controller allows itself.
const linkTimeout = helloTimeout + reviewTimeout + welcomeTimeout + 5*time.Second

// GRPCServerOptions returns what a node's gRPC server needs to find links whose network is cut, and
// to accept the controller's pings.
func GRPCServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: nodePingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(
			keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
	}
}

// Listener keeps links to the controller. It is a net.Listener: Accept returns the connection of
// each new link, on which a gRPC server with GRPCServerOptions serves.
type Listener struct {
	opts   NodeOptions
	timing nodeTiming
	host   string
	port   string
	logger klog.Logger
	conns  chan net.Conn
	done   <-chan struct{}
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	known map[string]bool // the addresses of the last lookup
	kept  map[string]bool // the addresses to which a goroutine keeps a link
	// standing are the addresses to which a link stands.
	standing map[string]bool
	lost     chan struct{} // has an element when a link has ended
}

var _ net.Listener = (*Listener)(nil)

// Listen begins to make links. Errors: of the options. The caller closes the listener.
func Listen(opts NodeOptions) (*Listener, error) {
	return listen(opts, defaultNodeTiming())
}

func listen(opts NodeOptions, timing nodeTiming) (*Listener, error) {
	host, port, err := net.SplitHostPort(opts.Address)
	if err != nil {
		return nil, fmt.Errorf("the controller's address: %w", err)
	}
	if opts.Lookup == nil {
		opts.Lookup = lookup
	}
	if opts.Dial == nil {
		opts.Dial = (&net.Dialer{}).DialContext
	}
	if opts.Logger.IsZero() {
		opts.Logger = klog.Background()
	}
	if opts.versions == (versions{}) {
		opts.versions = versions{minVersion, maxVersion}
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Listener{
		opts:   opts,
		timing: timing,
		host:   host,
		port:   port,
		logger: opts.Logger,
		conns:  make(chan net.Conn),
		done:   ctx.Done(),
		cancel: cancel,
		known:  map[string]bool{},
		kept:   map[string]bool{},

		standing: map[string]bool{},
		lost:     make(chan struct{}, 1),
	}
	l.wg.Go(func() { l.follow(ctx) })
	return l, nil
}

// Accept implements net.Listener. It waits for the next link.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Links that stand go on: the server closes them.
func (l *Listener) Close() error {
	l.cancel()
	l.wg.Wait()
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return address(l.opts.Address) }

// address is the controller's.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// follow looks the host's name up again and again, and keeps a link to each address. It looks
// seldom while all addresses are linked: a new replica comes as the next of one that ends, and its
// end is seen.
func (l *Listener) follow(ctx context.Context) {
	lastLogged := ""
	every := l.timing.lookup
	for ctx.Err() == nil {
		addresses, err := l.opts.Lookup(ctx, l.host)
		next := l.timing.lookup
		switch {
		case err == nil:
			lastLogged = ""
			if isNew := l.know(ctx, addresses); !isNew && l.isSettled() {
				next = min(2*every, l.timing.restedLookup)
			}
		case ctx.Err() == nil && err.Error() != lastLogged: // the links that stand go on
			lastLogged = err.Error()
			l.logger.Error(err, "Cannot look up the controller; trying again", "host", l.host)
		}
		every = l.rest(ctx, next)
	}
}

// rest waits until the next lookup, and returns how long it was to wait. When a link ends it is at
// most the shortest time, at random: the links of all nodes may have ended.
func (l *Listener) rest(ctx context.Context, d time.Duration) time.Duration {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return d
	case <-l.lost:
		pause(ctx, rand.N(l.timing.lookup)) //nolint:gosec // as said
		return l.timing.lookup
	case <-ctx.Done():
		return d
	}
}

// isSettled says whether a link stands to each address, and to no other.
func (l *Listener) isSettled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.known) > 0 && maps.Equal(l.known, l.standing)
}

// stands notes that a link to an address stands.
func (l *Listener) stands(to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.standing[to] = true
}

// ended notes that none does.
func (l *Listener) ended(to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.standing, to)
	select {
	case l.lost <- struct{}{}:
	default:
	}
}

// lookup returns the IPv4 addresses of a host or, if it has none, those of IPv6: with both, a node
// would have two links to each replica.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var v4 []netip.Addr
	for _, a := range all {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		}
	}
	if len(v4) > 0 {
		return v4, nil
	}
	return all, nil
}

// know keeps a link to each address, and says whether one of them is new.
func (l *Listener) know(ctx context.Context, addresses []netip.Addr) (isNew bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.known)
	for _, a := range addresses {
		to := net.JoinHostPort(a.String(), l.port)
		l.known[to] = true
		if !l.kept[to] {
			isNew, l.kept[to] = true, true
			l.wg.Go(func() { l.keep(ctx, to) })
		}
	}
	return isNew
}

// wanted says whether the controller still has an address. If not, nobody keeps a link to it any
// more.
func (l *Listener) wanted(to string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known[to] {
		delete(l.kept, to)
		delete(l.standing, to)
	}
	return l.known[to]
}

// keep has a link to an address, as long as the host's name resolves to it.
func (l *Listener) keep(ctx context.Context, to string) {
	logger := l.logger.WithValues("controller", to)
	retry := l.timing.firstRetry
	pause(ctx, rand.N(retry)) //nolint:gosec // nodes must not come all at once
	var now *standing
	for lastLogged := ""; ctx.Err() == nil && l.wanted(to); {
		next, err := l.open(ctx, to)
		if err == nil {
			lastLogged = ""
			logger.Info("Linked to the controller", "version", next.controllerVersion)
			now.leave(l.timing.drain)
			now = next
			l.stands(to)
			if err = now.wait(ctx); err == nil { // it is time for the next link
				retry = l.timing.firstRetry
				continue
			}
			if time.Since(now.since) > l.timing.settled {
				retry = l.timing.firstRetry
			}
		}
		l.ended(to)
		if ctx.Err() == nil && err.Error() != lastLogged {
			lastLogged = err.Error()
			logger.Error(err, "Link to the controller failed; trying again")
		}
		pause(ctx, retry/2+rand.N(retry)) //nolint:gosec // as above
		retry = min(2*retry, l.timing.lastRetry)
	}
}

// standing is a link that stands.
type standing struct {
	conn              *conn
	since             time.Time
	renew             time.Duration
	controllerVersion string
}

// wait returns nil when it is time for the next link. Errors: why this link has ended; the
// context's.
func (s *standing) wait(ctx context.Context) error {
	timer := time.NewTimer(s.renew)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.conn.closed:
		return s.conn.cause()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave has a link end, for the next one stands. The controller closes it when its calls have
// ended.
func (s *standing) leave(drain time.Duration) {
	if s == nil {
		return
	}
	timer := time.AfterFunc(drain, func() { s.conn.end(ErrReplaced) })
	s.conn.whenEnded(func(error) { timer.Stop() })
}

// open makes a link and hands it to the server.
func (l *Listener) open(ctx context.Context, to string) (*standing, error) {
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	raw, err := l.opts.Dial(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	c := newConn(raw)
	stop := context.AfterFunc(ctx, func() { c.end(context.Cause(ctx)) })
	defer stop()
	s, secure, err := l.introduce(ctx, c)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		c.end(err)
		return nil, err
	}
	select {
	case l.conns <- secure:
		return s, nil
	case <-l.done:
		c.end(net.ErrClosed)
		return nil, net.ErrClosed
	}
}

// introduce does the node's side of the handshake.
func (l *Listener) introduce(ctx context.Context, c *conn) (*standing, net.Conn, error) {
	config, token, err := l.credentials()
	if err != nil {
		return nil, nil, err
	}
	secure := tls.Client(c, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if err := writeMessage(secure, &linkpb.Hello{
		MinVersion:    l.opts.versions.lowest,
		MaxVersion:    l.opts.versions.highest,
		Token:         token,
		DriverName:    l.opts.DriverName,
		DriverVersion: l.opts.DriverVersion,
		NodeName:      l.opts.NodeName,
	}); err != nil {
		return nil, nil, err
	}
	welcome := &linkpb.Welcome{}
	if err := readMessage(secure, welcome); err != nil {
		return nil, nil, fmt.Errorf("read the controller's answer: %w", err)
	}
	if welcome.GetRefusal() != "" {
		return nil, nil, fmt.Errorf("the controller (%s) refuses the node: %s",
			welcome.GetControllerVersion(), welcome.GetRefusal())
	}
	c.bounded = false
	return &standing{
		conn:              c,
		since:             time.Now(),
		renew:             renewal(welcome),
		controllerVersion: welcome.GetControllerVersion(),
	}, secure, nil
}

// renewal is when the node opens its next link. The controller's wish is bounded, because a
// controller that was taken over must not keep the node busy.
func renewal(welcome *linkpb.Welcome) time.Duration {
	return max(time.Duration(welcome.GetRenewAfterSeconds())*time.Second, time.Second)
}

// credentials reads the files that kubelet exchanges.
func (l *Listener) credentials() (_ *tls.Config, token string, err error) {
	bundle, err := os.ReadFile(l.opts.CAFile)
	if err != nil {
		return nil, "", err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, "", fmt.Errorf("%s has no certificate", l.opts.CAFile)
	}
	secret, err := os.ReadFile(l.opts.TokenFile)
	if err != nil {
		return nil, "", err
	}
	if token = strings.TrimSpace(string(secret)); token == "" {
		return nil, "", errors.New(l.opts.TokenFile + " is empty")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: l.opts.ServerName,
		RootCAs:    roots,
		NextProtos: []string{protocol},
	}, token, nil
}
