package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
)

// dial makes a TLS connection as a node does.
func (w *world) dial(protocols ...string) *tls.Conn {
	w.t.Helper()
	pem, err := os.ReadFile(w.ca)
	if err != nil {
		w.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", w.address, &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: serverName, RootCAs: roots, NextProtos: protocols,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// handshakes is how many ended with a result.
func (w *world) handshakes(result string) float64 {
	w.t.Helper()
	m := &dto.Metric{}
	if err := w.server.metrics.handshakes.WithLabelValues(result).Write(m); err != nil {
		w.t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func TestNodeThatIsNotWhatItSaysIsToldSoAndGetsNoLink(t *testing.T) {
	w := newController(t, nil)
	w.tokens["token-b"] = "node-b"
	valid := func() *linkpb.Hello {
		return &linkpb.Hello{
			MinVersion: minVersion, MaxVersion: maxVersion, Token: "token-a",
			DriverName: driverName, DriverVersion: "9.9.9", NodeName: "node-a",
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*linkpb.Hello)
		result string
		want   string // a part of what the node is told
	}{
		{
			"the name of another node", func(h *linkpb.Hello) { h.NodeName = "node-b" }, reasonNodeName,
			`the token is of node "node-a", but the driver says "node-b"`,
		},
		{"no name", func(h *linkpb.Hello) { h.NodeName = "" }, reasonNodeName, "node-a"},
		{"an expired token", func(h *linkpb.Hello) { h.Token = "old" }, reasonToken, "the token has expired"},
		{"no token", func(h *linkpb.Hello) { h.Token = "" }, reasonToken, "token"},
		{
			"another driver", func(h *linkpb.Hello) { h.DriverName = "a.b" }, reasonDriver,
			`the node runs the driver "a.b", this is the controller of "hostpath.csi.local"`,
		},
		{
			"a newer link", func(h *linkpb.Hello) { h.MinVersion, h.MaxVersion = 7, 9 }, reasonVersion,
			"(driver 9.9.9) speaks 7 to 9, the controller 1 to 1: update the older of the two",
		},
		{"an older link", func(h *linkpb.Hello) { h.MinVersion, h.MaxVersion = 0, 0 }, reasonVersion, "speaks 0 to 0"},
	} {
		hello := valid()
		tt.change(hello)
		before := w.handshakes(tt.result)
		conn := w.dial(protocol)
		welcome := &linkpb.Welcome{}
		if err := writeMessage(conn, hello); err != nil {
			t.Fatal(err)
		}
		if err := readMessage(conn, welcome); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if !strings.Contains(welcome.GetRefusal(), tt.want) {
			t.Errorf("%s: the node is told %q", tt.name, welcome.GetRefusal())
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the connection goes on", tt.name)
		}
		w.eventually("it is counted", func() bool { return w.handshakes(tt.result) == before+1 })
	}
	if n := w.fleet.count(); n != 0 {
		t.Errorf("%d links", n)
	}
}

// What a newer node says at most is what it and the controller can agree on.
func TestVersionsThatOverlapAgree(t *testing.T) {
	for _, tt := range []struct{ low, high, want uint32 }{{1, 1, 1}, {0, 1, 1}, {1, 9, 1}} {
		hello := &linkpb.Hello{MinVersion: tt.low, MaxVersion: tt.high}
		got, err := versions{minVersion, maxVersion}.common(hello)
		if err != nil || got != tt.want {
			t.Errorf("%d to %d: %d, %v", tt.low, tt.high, got, err)
		}
	}
}

func TestPeerThatSpeaksSomethingElseGetsNothing(t *testing.T) {
	w := newController(t, nil)
	for _, tt := range []struct {
		name   string
		speak  func() net.Conn
		result string
	}{
		{"no TLS", func() net.Conn {
			conn, err := net.Dial("tcp", w.address)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			return conn
		}, reasonTLS},
		{"another protocol", func() net.Conn { return w.dial() }, reasonTLS},
		{"a long message", func() net.Conn {
			conn := w.dial(protocol)
			_, _ = conn.Write([]byte{0xff, 0xff, 0xff, 0xff})
			return conn
		}, reasonHello},
		{"no protobuf", func() net.Conn {
			conn := w.dial(protocol)
			_, _ = conn.Write([]byte{0, 0, 0, 1, 0xff})
			return conn
		}, reasonHello},
	} {
		before := w.handshakes(tt.result)
		conn := tt.speak()
		_, _ = io.Copy(io.Discard, conn) // ends with the connection
		conn.Close()
		w.eventually(tt.name+" is counted", func() bool {
			return w.handshakes(tt.result) == before+1
		})
	}
}

func TestNodeTrustsOnlyWhoseCertificateIsOfTheCA(t *testing.T) {
	w := newController(t, nil)
	opts := w.options("node-a", "token-a")
	right := opts.CAFile
	_, other := authority(t)
	opts.CAFile += ".other"
	write(t, opts.CAFile, other)
	otherName := opts
	otherName.CAFile, otherName.ServerName = right, "another"
	for name, opts := range map[string]NodeOptions{"CA": opts, "name": otherName} {
		l, err := listen(opts, quick())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.open(t.Context(), w.address); err == nil ||
			!strings.Contains(err.Error(), "certificate") {
			t.Errorf("another %s: %v", name, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := w.handshakes(resultLinked); n != 0 {
		t.Errorf("%v links", n)
	}
}

// A token of a pod is exchanged by kubelet, and a CA by the controller: each link takes what the
// files have then.
func TestNodeReadsItsTokenAndTheCAForEachLink(t *testing.T) {
	w := newController(t, nil)
	opts := w.options("node-a", "an old one")
	opts.CAFile = w.ca + ".node"
	w.start(opts, quick(), controllerService{node: "node-a"})
	time.Sleep(50 * time.Millisecond) // the node tries without a CA, most often
	pem, err := os.ReadFile(w.ca)
	if err != nil {
		t.Fatal(err)
	}
	write(t, opts.CAFile, pem)
	w.eventually("the node's token is refused", func() bool { return w.handshakes(reasonToken) > 0 })
	write(t, opts.TokenFile, []byte("token-a"))
	w.linked("node-a")
}

func TestConnectionsThatDoNotIntroduceThemselvesAreBounded(t *testing.T) {
	const most = 2 * maxFromOne
	w := newController(t, func(s *server) { s.waiting = newWaiting(most) })
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			c.Close()
		}
	}()
	for range 10 * most {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, conn)
	}
	w.eventually("the oldest are closed", func() bool {
		return w.handshakes(reasonCrowded) >= 9*most-1
	})
	w.server.waiting.mu.Lock()
	n := len(w.server.waiting.conns)
	w.server.waiting.mu.Unlock()
	if n > most {
		t.Errorf("%d connections wait, at most %d may", n, most)
	}
	w.start(w.options("node-a", "token-a"), quick(), controllerService{node: "node-a"})
	if answered, err := call(t.Context(), w.linked("node-a")); err != nil || answered != "node-a" {
		t.Errorf("%q, %v", answered, err)
	}
}

// Nodes come from many addresses. When all places are taken by such, further ones wait their turn.
func TestConnectionsOfManyAddressesWaitForTheirTurn(t *testing.T) {
	w := newWaiting(2)
	_, one := w.enter(t.Context(), from("10.0.0.1:1"))
	first, _ := w.enter(t.Context(), from("10.0.0.2:1"))
	entered := make(chan struct{})
	go func() {
		defer close(entered)
		w.enter(t.Context(), from("10.0.0.3:1"))
	}()
	select {
	case <-entered:
		t.Error("a third connection has entered")
	case <-time.After(50 * time.Millisecond):
	}
	one.leave()
	<-entered
	if err := context.Cause(first); err != nil {
		t.Errorf("a connection was closed for another one: %v", err)
	}
}

// Behind network address translation all nodes have one address: those whose tokens are reviewed
// must be done before further ones come. Others come all the same.
func TestNodesBehindOneAddressDoNotCloseEachOther(t *testing.T) {
	const most = 2 * maxFromOne
	w := newWaiting(most)
	var reviewed []context.Context
	enter := func(address string) (context.Context, *guest) {
		return w.enter(t.Context(), from(address))
	}
	for range most {
		greeting, g := enter("10.0.0.1:1")
		g.introduce()
		reviewed = append(reviewed, greeting)
	}
	closed := func() (n int) {
		for _, greeting := range reviewed {
			if greeting.Err() != nil {
				n++
			}
		}
		return n
	}
	for range 10 * most {
		greeting, g := enter("10.0.0.1:1")
		if !errors.Is(context.Cause(greeting), errCrowded) {
			t.Fatal("one more than may wait has entered")
		}
		g.leave()
	}
	if n := closed(); n > 0 {
		t.Errorf("%d connections whose tokens are reviewed were closed", n)
	}
	// Another address gets a place, whatever the first one does.
	other, _ := enter("10.0.0.2:1")
	for range 10 * most {
		_, g := enter("10.0.0.1:1")
		g.leave()
	}
	if other.Err() != nil || closed() != 1 {
		t.Errorf("another node: %v; %d connections were closed for it, want 1", other.Err(), closed())
	}
	// One that says nothing gives way to one of its own address.
	for range most - 1 {
		w.conns[0].leave()
	}
	var silent []context.Context
	for range most {
		greeting, _ := enter("10.0.0.1:1")
		silent = append(silent, greeting)
	}
	if silent[0].Err() == nil || silent[most-1].Err() != nil {
		t.Error("not the oldest that says nothing was closed")
	}
}

// addressed is a connection of which only the address counts.
type addressed struct {
	net.Conn

	address string
}

func from(address string) *conn { return newConn(addressed{Conn: nil, address: address}) }

func (a addressed) RemoteAddr() net.Addr { return address(a.address) }

func TestPeerThatIsSlowIsClosed(t *testing.T) {
	w := newController(t, func(s *server) { s.timing.hello = 100 * time.Millisecond })
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Error(err)
	}
	slow := w.dial(protocol)
	if _, err := slow.Read(make([]byte, 1)); err == nil {
		t.Error("a peer that says no Hello is kept")
	}
}

func TestPeerMaySendLittleBeforeItsLinkStands(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	c := newConn(ours)
	go func() {
		for err := error(nil); err == nil; {
			_, err = theirs.Write(make([]byte, 1024))
		}
	}()
	n, err := io.Copy(io.Discard, c)
	if err != errTooLong || n > maxHandshakeBytes+1024 { //nolint:errorlint // it is not wrapped
		t.Errorf("%d bytes, %v", n, err)
	}
}
