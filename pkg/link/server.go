package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
)

const (
	// DefaultRenewAfter is how often a node opens a new link: a stolen token is of use for twice as
	// long, and a review of each node's token in this time costs the API server little.
	DefaultRenewAfter = 4 * time.Hour

	// helloTimeout bounds how long a peer may take for the TLS handshake and its Hello.
	helloTimeout = 10 * time.Second
	// reviewTimeout bounds how long the API server may take to check a token.
	reviewTimeout = 20 * time.Second
	// welcomeTimeout bounds how long a peer may take to read the answer.
	welcomeTimeout = 5 * time.Second
)

// ServerOptions says who may link, and who is told.
type ServerOptions struct {
	// GetCertificate returns the certificate to show (tls.Config). Required.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Authenticator knows whose token it is. Required.
	Authenticator Authenticator
	// Fleet is told of links. Required.
	Fleet Fleet
	// DriverName is the name of the driver that nodes must run. Required.
	DriverName string
	// Version is the controller's, for the logs of nodes.
	Version string
	// RenewAfter is how often a node opens a new link. A link that is twice as old is ended. Default:
	// DefaultRenewAfter.
	RenewAfter time.Duration
	// Logger takes the log. Default: klog.Background().
	Logger klog.Logger
	// Registerer gets the metrics. Default: none, the metrics cannot be read.
	Registerer prometheus.Registerer
}

// server is the controller's side.
type server struct {
	opts     ServerOptions
	versions versions
	timing   serverTiming
	tls      *tls.Config
	logger   klog.Logger
	metrics  *metrics
	waiting  *waiting
	seldom   *rate.Limiter // for lines of the log that any peer can cause

	standing sync.WaitGroup // links of which the fleet thinks that they stand

	mu    sync.Mutex
	nodes map[string][]*nodeLink // the links of each node, the newest last
}

// Serve takes the links of nodes until the context ends. Then it closes the listener, ends all
// links and returns nil. Calls under way are cut off: let them end before. Errors: those of the
// listener. It registers metrics, so a second call with the same Registerer panics.
func Serve(ctx context.Context, listener net.Listener, opts ServerOptions) error {
	return newServer(opts).serve(ctx, listener)
}

func newServer(opts ServerOptions) *server {
	if opts.RenewAfter == 0 {
		opts.RenewAfter = DefaultRenewAfter
	}
	if opts.Logger.IsZero() {
		opts.Logger = klog.Background()
	}
	return &server{
		opts:     opts,
		versions: versions{minVersion, maxVersion},
		timing:   defaultServerTiming(),
		tls: &tls.Config{
			MinVersion:     tls.VersionTLS13,
			GetCertificate: opts.GetCertificate,
			NextProtos:     []string{protocol},
			// Each link is to prove the certificate that is valid now.
			SessionTicketsDisabled: true,
		},
		logger:  opts.Logger,
		metrics: newMetrics(opts.Registerer),
		waiting: newWaiting(maxWaiting),
		seldom:  rate.NewLimiter(rate.Every(time.Second), 20),
		nodes:   map[string][]*nodeLink{},
	}
}

func (s *server) serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer s.endAll()
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	wg.Go(func() { s.sweep(ctx) })
	for {
		raw, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("take links of nodes: %w", err)
		case err != nil: // such as EMFILE, which passes
			s.logger.Error(err, "Cannot take a connection; trying again")
			pause(ctx, time.Second)
			continue
		}
		c := newConn(raw)
		greeting, g := s.waiting.enter(ctx, c)
		wg.Go(func() {
			defer g.leave()
			s.greet(greeting, c, g)
		})
	}
}

// pause waits, at most until the context ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// greet makes a link of a connection, or closes it.
func (s *server) greet(ctx context.Context, c *conn, g *guest) {
	stop := context.AfterFunc(ctx, func() { c.end(context.Cause(ctx)) })
	defer stop()
	secure := tls.Server(c, s.tls)
	var l *Link
	hello, err := s.receive(ctx, c, secure)
	if err == nil {
		g.introduce()
		l, err = s.welcome(ctx, c, secure, hello)
	}
	if !stop() { // the connection had to make room for another, or the controller stops
		err = context.Cause(ctx)
	}
	if err == nil {
		err = s.link(c, secure, l)
	}
	if err == nil {
		s.metrics.handshakes.WithLabelValues(resultLinked).Inc()
		return
	}
	c.end(err)
	reason := reasonLost
	if r := (*refusal)(nil); errors.As(err, &r) {
		reason = r.reason
	}
	s.metrics.handshakes.WithLabelValues(reason).Inc()
	if s.seldom.Allow() {
		s.logger.Info("Refusing a node's link", "address", c.RemoteAddr().String(), "reason", reason,
			"node", hello.GetNodeName(), "err", err.Error())
	}
}

// receive does the TLS handshake and reads the node's Hello.
func (s *server) receive(
	ctx context.Context, c *conn, secure *tls.Conn,
) (*linkpb.Hello, error) {
	if err := c.SetDeadline(time.Now().Add(s.timing.hello)); err != nil {
		return nil, err
	}
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, refuse(reasonTLS, "TLS handshake: %v", err)
	}
	if secure.ConnectionState().NegotiatedProtocol != protocol {
		return nil, refuse(reasonTLS, "the peer does not ask for the protocol %s", protocol)
	}
	hello := &linkpb.Hello{}
	if err := readMessage(secure, hello); err != nil {
		return nil, refuse(reasonHello, "read the node's first message: %v", err)
	}
	return hello, nil
}

// welcome answers a node's Hello.
func (s *server) welcome(
	ctx context.Context, c *conn, secure *tls.Conn, hello *linkpb.Hello,
) (*Link, error) {
	if err := c.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	node, version, refused := s.check(ctx, hello)
	answer := &linkpb.Welcome{Version: version, ControllerVersion: s.opts.Version}
	if refused != nil {
		answer.Refusal = refused.Error()
	} else {
		answer.RenewAfterSeconds = uint32(jitter(s.opts.RenewAfter).Seconds())
	}
	if err := c.SetDeadline(time.Now().Add(welcomeTimeout)); err != nil {
		return nil, errors.Join(refused, err)
	}
	if err := writeMessage(secure, answer); err != nil || refused != nil {
		return nil, errors.Join(refused, err)
	}
	return &Link{
		Node:          node,
		DriverVersion: hello.GetDriverVersion(),
		Version:       version,
		Since:         time.Now(),
	}, c.SetDeadline(time.Time{})
}

// jitter is three quarters of a time, or up to a quarter more: nodes must not come all at once.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/4+1) //nolint:gosec // nobody gains by guessing it
}
