package serving

import (
	"io"
	"net"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// listenBounded returns a bounded listener on loopback.
func listenBounded(
	t *testing.T, most int, victim func([]*boundedConn) *boundedConn,
) (net.Listener, chan net.Conn) {
	t.Helper()
	inner, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	fixture.Must(t, err)
	l := boundListener(t.Context(), inner, "test", most, victim)
	accepted := make(chan net.Conn, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	t.Cleanup(func() { fixture.Must(t, l.Close()); <-ended })
	return l, accepted
}

func connectFrom(t *testing.T, l net.Listener, source string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
	fixture.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// wantClosed waits until the other side has closed the connection.
func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("the connection is open, %d bytes were read", n)
	}
}

// wantOpen sends one byte in each direction.
func wantOpen(t *testing.T, client, server net.Conn) {
	t.Helper()
	_, err := client.Write([]byte{1})
	fixture.Must(t, err)
	_, err = io.ReadFull(server, make([]byte, 1))
	fixture.Must(t, err)
}

func TestTheGreediestClientLosesItsOldestConnection(t *testing.T) {
	l, accepted := listenBounded(t, 3, oldestOfTheGreediest)
	modest := connectFrom(t, l, "127.0.0.2")
	modestServer := <-accepted
	greedy := connectFrom(t, l, "127.0.0.3")
	<-accepted
	second := connectFrom(t, l, "127.0.0.3")
	secondServer := <-accepted
	third := connectFrom(t, l, "127.0.0.3")
	thirdServer := <-accepted
	wantClosed(t, greedy)
	wantOpen(t, modest, modestServer)
	wantOpen(t, second, secondServer)
	wantOpen(t, third, thirdServer)
	fixture.Must(t, modestServer.Close()) // so that another connection is accepted
	connectFrom(t, l, "127.0.0.3")
	<-accepted
	wantOpen(t, second, secondServer)
}

func TestConnectionsThatThereAreStay(t *testing.T) {
	l, accepted := listenBounded(t, 1, nobody)
	first := connectFrom(t, l, "127.0.0.2")
	server := <-accepted
	wantClosed(t, connectFrom(t, l, "127.0.0.3"))
	wantOpen(t, first, server)
	fixture.Must(t, server.Close())
	second := connectFrom(t, l, "127.0.0.3")
	wantOpen(t, second, <-accepted)
}

func TestAnAnswerIsSettledAsItIsWritten(t *testing.T) {
	l, accepted := listenBounded(t, 1, nobody)
	connectFrom(t, l, "127.0.0.2")
	conn, _ := (<-accepted).(*boundedConn)
	written := map[string]int64{}
	announce := func(name string, bytes int64) {
		connection{conn.Conn.RemoteAddr(), conn}.Answer(bytes, func(n int64) { written[name] += n })
	}
	announce("first", 4)
	announce("second", 10)
	write := func(bytes int) {
		_, err := conn.Write(make([]byte, bytes))
		fixture.Must(t, err)
	}
	write(3)
	if written["first"] != 3 || written["second"] != 0 {
		t.Errorf("after 3 bytes: %v", written)
	}
	write(3)
	if written["first"] != 4 || written["second"] != 2 {
		t.Errorf("after 6 bytes: %v", written)
	}
	fixture.Must(t, conn.Close())
	announce("late", 7)
	if written["second"] != 10 || written["late"] != 7 {
		t.Errorf("after the end of the connection: %v", written)
	}
}
