package link

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"time"
)

// serverTiming has what tests shorten.
type serverTiming struct {
	// hello is how long a peer may take for the TLS handshake and its Hello.
	hello time.Duration
	// sweep is the time between two looks at all links.
	sweep time.Duration
	// idle is how long a replaced link stays open at least: a caller may have taken it just before.
	idle time.Duration
	// drain is how long the calls of a replaced link may go on.
	drain time.Duration
}

func defaultServerTiming() serverTiming {
	return serverTiming{
		hello: helloTimeout, sweep: time.Second, idle: 5 * time.Second, drain: 10 * time.Minute,
	}
}

// maxNodeLinks bounds the links of one node: the newest, and replaced ones whose calls go on.
const maxNodeLinks = 3

// Why a link ends. Fleet.Unlinked gets one of them, or the error of the connection.
var (
	// ErrReplaced: the node has a newer link, and the calls of this one have ended.
	ErrReplaced = errors.New("replaced by the node's next link")
	// ErrTooOld: the node has not opened its next link in time.
	ErrTooOld = errors.New("the node has not proved its name again in time")
	// ErrSilent: the node has not answered a ping.
	ErrSilent = errors.New("the node does not answer")
	// ErrStopped: the controller stops.
	ErrStopped = errors.New("the controller stops")
)

// nodeLink is a link with what ends it.
type nodeLink struct {
	*Link
	conn     *conn
	client   *client
	replaced time.Time // zero: it is the newest
	pinged   time.Time // when it was last
}

// link makes a link of a connection whose handshake is done.
func (s *server) link(c *conn, secure *tls.Conn, l *Link) error {
	c.bounded = false
	client, err := newClient(l.Node, secure, c.end)
	if err != nil {
		return err
	}
	l.Conn = client
	n := &nodeLink{Link: l, conn: c, client: client}
	s.mu.Lock()
	defer s.mu.Unlock()
	links := s.nodes[l.Node]
	if len(links) > 0 {
		links[len(links)-1].replaced = l.Since
	}
	for _, old := range links[:max(0, len(links)-maxNodeLinks+1)] {
		old.conn.end(ErrReplaced)
	}
	s.nodes[l.Node] = append(links, n)
	s.metrics.links.Set(float64(len(s.nodes)))
	s.opts.Fleet.Linked(l)
	if len(links) == 0 {
		s.logger.Info("Node linked", "node", l.Node, "address", c.RemoteAddr().String(),
			"driverVersion", l.DriverVersion)
	}
	s.standing.Go(func() { c.end(client.read()) })
	s.standing.Add(1)
	c.whenEnded(func(why error) { go s.unlink(n, why) }) // it may be closed under locks
	return nil
}

// unlink forgets a link whose connection is closed.
func (s *server) unlink(n *nodeLink, why error) {
	defer s.standing.Done()
	n.client.end(why)
	s.mu.Lock()
	defer s.mu.Unlock()
	left := slices.DeleteFunc(s.nodes[n.Node], func(other *nodeLink) bool { return other == n })
	if s.nodes[n.Node] = left; len(left) == 0 {
		delete(s.nodes, n.Node)
		s.logger.Info("Node is no longer linked", "node", n.Node, "err", why.Error())
	}
	s.metrics.links.Set(float64(len(s.nodes)))
	s.opts.Fleet.Unlinked(n.Link, why)
}

// sweep ends the links whose time is over, until the context ends. One goroutine looks at all
// links, because a timer or a goroutine for each would cost memory.
func (s *server) sweep(ctx context.Context) {
	ticker := time.NewTicker(s.timing.sweep)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for n, why := range s.over(now) {
				n.conn.end(why)
			}
			for _, n := range s.silent(now) {
				s.standing.Go(n.client.ping) // it may wait for the network
			}
		}
	}
}

// over lists the links whose time is over, and why.
func (s *server) over(now time.Time) map[*nodeLink]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	over := map[*nodeLink]error{}
	for _, links := range s.nodes {
		for _, n := range links {
			if why := s.isOver(n, now); why != nil {
				over[n] = why
			}
		}
	}
	return over
}

// silent lists the links to ping.
func (s *server) silent(now time.Time) (silent []*nodeLink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, links := range s.nodes {
		for _, n := range links {
			if now.Sub(n.conn.heard()) > pingAfter && now.Sub(n.pinged) > pingAfter {
				n.pinged = now
				silent = append(silent, n)
			}
		}
	}
	return silent
}

func (s *server) isOver(n *nodeLink, now time.Time) error {
	if now.Sub(n.conn.heard()) > pingAfter+pingTimeout {
		return ErrSilent
	}
	if n.replaced.IsZero() {
		if now.Sub(n.Since) > 2*s.opts.RenewAfter {
			return ErrTooOld
		}
		return nil
	}
	since := now.Sub(n.replaced)
	idle := since > s.timing.idle && n.client.underWay.Load() == 0
	if idle || since > s.timing.drain {
		return ErrReplaced
	}
	return nil
}

// endAll ends all links, and tells the fleet of each.
func (s *server) endAll() {
	s.mu.Lock()
	var all []*nodeLink
	for _, links := range s.nodes {
		all = append(all, links...)
	}
	s.mu.Unlock()
	for _, n := range all {
		n.conn.end(ErrStopped)
	}
	s.standing.Wait()
}
