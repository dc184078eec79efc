package link

import (
	"context"
	"net"
	"slices"
	"sync"
)

// The bounds of connections whose nodes have not proved their names.
const (
	// maxWaiting is how many there are at most. Each takes about 40 KiB.
	maxWaiting = 512
	// maxFromOne is how many an address may have when there are too many. Nodes have one each, but
	// all nodes may come from one address (network address translation).
	maxFromOne = 8
)

// errCrowded: an address has too many connections.
var errCrowded = refuse(reasonCrowded,
	"too many connections from this address wait for their handshake")

// waiting holds the connections whose handshake is under way.
type waiting struct {
	most int
	left chan struct{} // has an element when a connection has left

	mu    sync.Mutex
	conns []*guest // the oldest first
}

// guest is a connection that waits.
type guest struct {
	waiting *waiting
	source  string
	cancel  context.CancelCauseFunc
	// introduced says that it has said its Hello, and waits for the review of its token.
	introduced bool
}

func newWaiting(most int) *waiting { return &waiting{most: most, left: make(chan struct{}, 1)} }

// enter adds a connection. When there are too many, the address that has most gives one up, or none
// more. If no address has many, enter waits: then nodes wait in the listener's backlog. The context
// that it returns ends when the connection is closed for another. The caller calls leave once.
func (w *waiting) enter(ctx context.Context, c *conn) (context.Context, *guest) {
	greeting, cancel := context.WithCancelCause(ctx)
	g := &guest{waiting: w, source: sourceOf(c), cancel: cancel}
	for {
		admitted, victim := w.admit(g)
		if victim != nil {
			victim.cancel(errCrowded)
		}
		if admitted || victim == g {
			return greeting, g
		}
		select {
		case <-w.left:
		case <-ctx.Done():
			return greeting, g // the handshake fails
		}
	}
}

// admit adds a guest, if there is room or can be made, and says whom to close for that: perhaps the
// guest itself.
func (w *waiting) admit(g *guest) (admitted bool, victim *guest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.conns) >= w.most {
		if victim = w.victim(g); victim == nil || victim == g {
			return false, victim
		}
		w.remove(victim)
	}
	w.conns = append(w.conns, g)
	return true, victim
}

// victim is whom to close for a new guest: of the address that has most, the oldest that has said
// nothing. If all of them have, it is the new guest, if it comes from there as well: otherwise many
// nodes behind one address would close each other's connections, and none would be done. Else it is
// the oldest one there. It is nil if no address has many.
func (w *waiting) victim(g *guest) *guest {
	source := w.greediest()
	if source == "" {
		return nil
	}
	var oldest *guest
	for _, other := range w.conns {
		switch {
		case other.source != source:
		case !other.introduced:
			return other
		case oldest == nil:
			oldest = other
		}
	}
	if g.source == source {
		return g
	}
	return oldest
}

// greediest is the address that has most connections, empty if none has many.
func (w *waiting) greediest() (source string) {
	counts := map[string]int{}
	most := maxFromOne
	for _, g := range w.conns {
		if counts[g.source]++; counts[g.source] > most {
			source, most = g.source, counts[g.source]
		}
	}
	return source
}

// introduce notes that the guest has said its Hello.
func (g *guest) introduce() {
	g.waiting.mu.Lock()
	defer g.waiting.mu.Unlock()
	g.introduced = true
}

// leave makes room for another connection.
func (g *guest) leave() {
	g.cancel(nil)
	g.waiting.mu.Lock()
	g.waiting.remove(g)
	g.waiting.mu.Unlock()
	select {
	case g.waiting.left <- struct{}{}:
	default:
	}
}

func (w *waiting) remove(g *guest) {
	w.conns = slices.DeleteFunc(w.conns, func(other *guest) bool { return other == g })
}

func sourceOf(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}
