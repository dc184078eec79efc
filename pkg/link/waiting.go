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
	// maxFromOne is how many an address may have when there are too many: then its oldest is closed
	// for a new one. Nodes have one each.
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
	source string
	cancel context.CancelCauseFunc
}

func newWaiting(most int) *waiting { return &waiting{most: most, left: make(chan struct{}, 1)} }

// enter adds a connection. When there are too many it closes the oldest of the address that has
// most or, if no address has many, waits: then nodes wait in the listener's backlog. The context
// that it returns ends when the connection is closed for another. The caller calls leave once.
func (w *waiting) enter(ctx context.Context, c *conn) (_ context.Context, leave func()) {
	greeting, cancel := context.WithCancelCause(ctx)
	g := &guest{sourceOf(c), cancel}
	for {
		admitted, victim := w.admit(g)
		if victim != nil {
			victim.cancel(errCrowded)
		}
		if admitted {
			return greeting, func() { cancel(nil); w.leave(g) }
		}
		select {
		case <-w.left:
		case <-ctx.Done():
			return greeting, func() { cancel(nil) } // the handshake fails
		}
	}
}

// admit adds a guest, if there is room or can be made, and says whom to close for that.
func (w *waiting) admit(g *guest) (admitted bool, victim *guest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.conns) >= w.most {
		if victim = w.greediest(); victim == nil {
			return false, nil
		}
		w.remove(victim)
	}
	w.conns = append(w.conns, g)
	return true, victim
}

// greediest is the oldest connection of the address that has most, nil if none has many.
func (w *waiting) greediest() *guest {
	counts := map[string]int{}
	var most *guest
	for _, g := range w.conns {
		counts[g.source]++
	}
	for _, g := range w.conns {
		if counts[g.source] > maxFromOne && (most == nil || counts[g.source] > counts[most.source]) {
			most = g
		}
	}
	return most
}

func (w *waiting) leave(g *guest) {
	w.mu.Lock()
	w.remove(g)
	w.mu.Unlock()
	select {
	case w.left <- struct{}{}:
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
