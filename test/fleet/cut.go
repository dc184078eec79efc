package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
)

// network is a node's way to the controller, which can be cut: then nothing arrives in either
// direction, and nobody is told.
type network struct {
	listeners []net.Listener
	wg        sync.WaitGroup

	mu   sync.Mutex
	open chan struct{} // closed while the network is whole
	all  []net.Conn
}

// newNetwork listens on addresses of its own for each replica, on the port that the replicas have.
func newNetwork(port string, replicas int) (*network, error) {
	n := &network{open: make(chan struct{})}
	close(n.open)
	for i := range replicas {
		l, err := net.Listen("tcp4", net.JoinHostPort(n.address(i).String(), port))
		if err != nil {
			return nil, errors.Join(err, n.close())
		}
		n.listeners = append(n.listeners, l)
		to := net.JoinHostPort(replicaAddress(i).String(), port)
		n.wg.Go(func() { n.accept(l, to) })
	}
	return n, nil
}

func (*network) address(replica int) netip.Addr { return loopback(1, replica) }

// lookup resolves the controller's name for the node behind this network.
func (n *network) lookup(context.Context, string) ([]netip.Addr, error) {
	var all []netip.Addr
	for i := range n.listeners {
		all = append(all, n.address(i))
	}
	return all, nil
}

func (n *network) accept(l net.Listener, to string) {
	for {
		node, err := l.Accept()
		if err != nil {
			return
		}
		controller, err := net.Dial("tcp4", to)
		if err != nil { // the controller is down
			node.Close()
			continue
		}
		n.mu.Lock()
		n.all = append(n.all, node, controller)
		n.mu.Unlock()
		n.wg.Go(func() { n.carry(controller, node) })
		n.wg.Go(func() { n.carry(node, controller) })
	}
}

// carry copies until one end closes. What is sent while the network is cut arrives later, as TCP
// sends it again; so does the end of the connection.
func (n *network) carry(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		count, err := from.Read(buffer)
		<-n.whole()
		if _, failed := to.Write(buffer[:count]); err != nil || failed != nil {
			return
		}
	}
}

// whole is closed while the network is whole.
func (n *network) whole() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open
}

func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open = make(chan struct{})
}

func (n *network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.open)
}

// close needs a network that is whole.
func (n *network) close() error {
	var errs []error
	for _, l := range n.listeners {
		errs = append(errs, l.Close())
	}
	n.mu.Lock()
	for _, c := range n.all {
		c.Close()
	}
	n.mu.Unlock()
	n.wg.Wait()
	return errors.Join(errs...)
}
