package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// hurried has nodes renew their links every second, and replaced links end soon.
func hurried(s *server) {
	s.opts.RenewAfter = 2 * time.Second
	s.timing.sweep, s.timing.idle = 10*time.Millisecond, 100*time.Millisecond
}

func TestLinkIsRenewedWithoutOneFailedCall(t *testing.T) {
	w := newController(t, hurried)
	w.start(w.options("node-a", "token-a"), quick(), controllerService{node: "node-a"})
	first := w.linked("node-a")
	for w.fleet.count() < 4 {
		if _, err := call(t.Context(), w.fleet.of("node-a")); err != nil {
			t.Fatalf("after %d links: %v", w.fleet.count(), err)
		}
	}
	w.eventually("the first link has ended", func() bool {
		return errors.Is(w.fleet.endOf(first), ErrReplaced)
	})
	if _, err := call(t.Context(), first); status.Code(err) != codes.Unavailable {
		t.Errorf("a call on a link that has ended: %v", err)
	}
}

func TestCallOfAReplacedLinkGoesOnUntilItEnds(t *testing.T) {
	w := newController(t, hurried)
	delay := make(chan struct{})
	w.start(w.options("node-a", "token-a"), quick(), controllerService{node: "node-a", delay: delay})
	first := w.linked("node-a")
	answered := make(chan error, 1)
	go func() {
		_, err := call(context.Background(), first)
		answered <- err
	}()
	w.eventually("there are more links", func() bool { return w.fleet.count() >= maxNodeLinks })
	if err := w.fleet.endOf(first); err != nil {
		t.Errorf("a link with a call has ended: %v", err)
	}
	close(delay)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	w.eventually("the first link has ended", func() bool { return w.fleet.endOf(first) != nil })
}

func TestCallThatNeverEndsDoesNotKeepALinkForever(t *testing.T) {
	w := newController(t, func(s *server) {
		hurried(s)
		s.timing.drain = 200 * time.Millisecond
	})
	delay := make(chan struct{})
	defer close(delay)
	w.start(w.options("node-a", "token-a"), quick(), controllerService{node: "node-a", delay: delay})
	if _, err := call(t.Context(), w.linked("node-a")); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}

// Links of one node are bounded, whatever the node does.
func TestNodeThatLinksAgainAndAgainHasFewLinks(t *testing.T) {
	w := newController(t, nil)
	for range 3 * maxNodeLinks {
		before := w.fleet.count()
		w.start(w.options("node-a", "token-a"), quick(), controllerService{node: "node-a"})
		w.eventually("a link more", func() bool { return w.fleet.count() > before })
		w.eventually("the newest link is of use", func() bool {
			newest := w.fleet.of("node-a")
			if newest == nil {
				return false
			}
			_, err := call(t.Context(), newest)
			return err == nil
		})
		w.eventually("older links end", func() bool {
			w.server.mu.Lock()
			defer w.server.mu.Unlock()
			return len(w.server.nodes["node-a"]) <= maxNodeLinks
		})
	}
}

// A token is of use for a while only, also if whoever has it never links again.
func TestLinkThatIsNotRenewedInTimeEnds(t *testing.T) {
	w := newController(t, func(s *server) {
		s.opts.RenewAfter = 100 * time.Millisecond // a node waits for a second at least
		s.timing.sweep = 10 * time.Millisecond
	})
	w.start(w.options("node-a", "token-a"), quick(), controllerService{node: "node-a"})
	l := w.linked("node-a")
	w.eventually("the link ends", func() bool { return errors.Is(w.fleet.endOf(l), ErrTooOld) })
	w.eventually("the node links again", func() bool { return w.fleet.count() > 1 })
}

func TestNodeLinksToAllReplicasAndOneMayEnd(t *testing.T) {
	one := newController(t, nil)
	_, port, err := net.SplitHostPort(one.address)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.2", port))
	if err != nil {
		t.Skip("the port is in use at another address:", err)
	}
	two := newControllerAt(t, listener, func(s *server) { s.tls = one.server.tls.Clone() })
	opts := one.options("node-a", "token-a")
	opts.Address = net.JoinHostPort("controller", port)
	var mu sync.Mutex
	addresses := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	opts.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		return addresses, nil
	}
	one.start(opts, quick(), controllerService{node: "node-a"})
	if _, err := call(t.Context(), one.linked("node-a")); err != nil {
		t.Error(err)
	}
	l := two.linked("node-a")
	one.stop()
	mu.Lock()
	addresses = addresses[1:]
	mu.Unlock()
	for _, l := range one.fleet.all {
		if err := one.fleet.endOf(l); !errors.Is(err, ErrStopped) {
			t.Errorf("the link of a controller that has stopped: %v", err)
		}
	}
	if _, err := call(t.Context(), l); err != nil || two.fleet.count() != 1 {
		t.Errorf("%v after %d links", err, two.fleet.count())
	}
}

// The cluster's DNS serves all nodes. One that has all its links asks it seldom, and one that has
// lost a link asks it often.
func TestNodeLooksTheControllerUpSeldomWhileAllIsWell(t *testing.T) {
	w := newController(t, nil)
	opts := w.options("node-a", "token-a")
	_, port, err := net.SplitHostPort(w.address)
	if err != nil {
		t.Fatal(err)
	}
	opts.Address = net.JoinHostPort("controller", port)
	var lookups atomic.Int64
	opts.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		lookups.Add(1)
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	timing := quick()
	timing.lookup, timing.restedLookup = 5*time.Millisecond, time.Hour
	w.start(opts, timing, controllerService{node: "node-a"})
	w.linked("node-a")
	w.eventually("it looks seldom", func() bool {
		before := lookups.Load()
		time.Sleep(60 * timing.lookup)
		return lookups.Load() == before
	})
	w.stop()
	before := lookups.Load()
	w.eventually("it looks often", func() bool { return lookups.Load() > before+20 })
}

func TestNodeLinksAgainWhenTheControllerIsBack(t *testing.T) {
	w := newController(t, nil)
	w.start(w.options("node-a", "token-a"), quick(), controllerService{node: "node-a"})
	w.linked("node-a")
	w.stop()
	// On loopback a node that dials may have the address itself for a moment.
	var listener net.Listener
	w.eventually("the address is free", func() (free bool) {
		var err error
		listener, err = net.Listen("tcp", w.address)
		return err == nil
	})
	next := newControllerAt(t, listener, func(s *server) { s.tls = w.server.tls.Clone() })
	if _, err := call(t.Context(), next.linked("node-a")); err != nil {
		t.Error(err)
	}
}

func TestNodeThatEndsIsUnlinkedAtOnce(t *testing.T) {
	w := newController(t, nil)
	server := w.start(w.options("node-a", "token-a"), quick(), controllerService{node: "node-a"})
	l := w.linked("node-a")
	server.Stop()
	w.eventually("it is unlinked", func() bool { return w.fleet.of("node-a") == nil })
	if _, err := call(t.Context(), l); status.Code(err) != codes.Unavailable {
		t.Errorf("a call on the link: %v", err)
	}
}
