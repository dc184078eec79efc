package link

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// cable is a network between nodes and a controller. When it is cut nothing arrives any more, and
// nobody is told.
type cable struct {
	listener net.Listener
	to       string
	cut      atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

// newCable lays a cable to an address, until the test ends.
func newCable(t *testing.T, to string) *cable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: listener, to: to}
	c.wg.Go(c.run)
	t.Cleanup(func() {
		listener.Close()
		c.mu.Lock()
		for _, conn := range c.conns {
			conn.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

func (c *cable) run() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.to)
		if err != nil {
			near.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, near, far)
		c.mu.Unlock()
		c.wg.Go(func() { c.forward(far, near) })
		c.wg.Go(func() { c.forward(near, far) })
	}
}

// forward loses what it reads while the cable is cut, also that a connection has ended.
func (c *cable) forward(to, from net.Conn) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		switch {
		case err != nil && !c.cut.Load():
			to.Close()
			return
		case err != nil:
			return
		case c.cut.Load():
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			from.Close()
			return
		}
	}
}

func TestBothSidesFindOutThatTheNetworkIsCut(t *testing.T) {
	t.Parallel() // it waits for pings
	w := newController(t, nil)
	c := newCable(t, w.address)
	opts := w.options("node-a", "token-a")
	opts.Address = c.listener.Addr().String()
	delay := make(chan struct{})
	defer close(delay)
	ended := make(chan struct{})
	w.start(opts, quick(), endings{controllerService{node: "node-a", delay: delay}, ended})
	l := w.linked("node-a")
	answered := make(chan error, 1)
	go func() {
		_, err := call(context.Background(), l)
		answered <- err
	}()
	<-ended // the call has begun
	c.cut.Store(true)
	cut := time.Now()
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the call of the controller: %v", err)
	}
	<-ended // the node has found out, and its call was cancelled
	t.Logf("both sides know after %v", time.Since(cut))
	c.cut.Store(false)
	w.eventually("the node links again", func() bool {
		now := w.fleet.of("node-a")
		return now != nil && now != l
	})
}

// endings tells when a call begins and when it ends.
type endings struct {
	controllerService

	told chan<- struct{}
}

func (e endings) DeleteVolume(
	ctx context.Context, req *csi.DeleteVolumeRequest,
) (*csi.DeleteVolumeResponse, error) {
	e.told <- struct{}{}
	defer func() { e.told <- struct{}{} }()
	return e.controllerService.DeleteVolume(ctx, req)
}
