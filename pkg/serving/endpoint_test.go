package serving

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// leaveStale makes a socket file as a killed process leaves one.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func answers(path string) bool {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func TestListenAnswersOnAPrivateSocket(t *testing.T) {
	// The socket's mode must not depend on the umask. The tests of this package that make files do not
	// run in parallel, because the umask is the process's.
	defer unix.Umask(unix.Umask(0))
	for _, scheme := range []string{"unix://", "unix:"} {
		path := fixture.Socket(t)
		l, err := Listen(scheme + path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		if !answers(path) {
			t.Error("nobody answers")
		}
		if l.Addr().String() != path {
			t.Errorf("address %s, want %s", l.Addr(), path)
		}
		if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
			t.Errorf("the socket's directory has %v, want only the socket", entries)
		}
		l.Close()
	}
}

// A chmod(2) after bind(2) would be too late: the socket must have its mode from bind(2) on.
func TestSocketIsPrivateFromBindOn(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	path := fixture.Socket(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	conn, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := restrict("unix", path, conn); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("after bind: %v, %v", info.Mode(), err)
	}
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	path := fixture.Socket(t)
	leaveStale(t, path)
	listen(t, path)
	if !answers(path) {
		t.Error("nobody answers")
	}
}

// A process that was killed, and of which a thread waits for a filesystem that hangs, keeps its
// socket: connections are made, and nobody takes them.
func TestListenReplacesASocketThatNobodyAccepts(t *testing.T) {
	path := fixture.Socket(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	defer dead.Close()
	if !answers(path) {
		t.Fatal("no connection is made: this test shows nothing")
	}
	l := listen(t, path)
	go acceptAll(l, func(conn net.Conn) { _, _ = conn.Write([]byte("x")) })
	if err := ask(path, time.Now().Add(time.Minute)); err != nil {
		t.Errorf("the new socket: %v", err)
	}
}

// acceptAll serves connections until the listener is closed.
func acceptAll(l net.Listener, serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			serve(conn)
		}()
	}
}

// Another program's socket is left alone also if that program speaks another protocol.
func TestListenRefusesASocketWhoseProcessOnlyReads(t *testing.T) {
	path := fixture.Socket(t)
	first := listen(t, path)
	go acceptAll(first, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	if _, err := Listen("unix://" + path); err == nil ||
		!strings.Contains(err.Error(), "in use: another process answers") {
		t.Errorf("got %v", err)
	}
}

func TestListenRefusesALiveSocket(t *testing.T) {
	path := fixture.Socket(t)
	first := listen(t, path)
	go acceptAll(first, func(conn net.Conn) { _, _ = conn.Write([]byte("x")) })
	if _, err := Listen("unix://" + path); err == nil ||
		!strings.Contains(err.Error(), "in use: another process answers") {
		t.Errorf("got %v", err)
	}
	if !answers(path) {
		t.Error("the first no longer answers")
	}
	first.Close()
	listen(t, path)
}

func TestListenRefusesASocketOfAnotherKind(t *testing.T) {
	path := fixture.Socket(t)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var l io.Closer = conn
	defer l.Close()
	if _, err := Listen("unix://" + path); !errors.Is(err, syscall.EPROTOTYPE) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("it was removed: %v", err)
	}
}

func TestListenNeverRemovesWhatIsNotASocket(t *testing.T) {
	makers := map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link":      func(path string) error { return os.Symlink("elsewhere", path) },
	}
	for name, create := range makers {
		t.Run(name, func(t *testing.T) {
			path := fixture.Socket(t)
			if err := create(path); err != nil {
				t.Fatal(err)
			}
			if _, err := Listen("unix://" + path); err == nil ||
				!strings.Contains(err.Error(), "is not a socket") {
				t.Errorf("got %v", err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("it was removed: %v", err)
			}
		})
	}
}

func TestListenSaysThatTheDirectoryIsMissing(t *testing.T) {
	path := filepath.Join(filepath.Dir(fixture.Socket(t)), "no", "csi.sock")
	if _, err := Listen("unix://" + path); err == nil ||
		!strings.Contains(err.Error(), "does not exist: make it") {
		t.Errorf("got %v", err)
	}
}

func TestListenRefusesEndpointsThatAreNoUnixSocket(t *testing.T) {
	longest := "/" + strings.Repeat("x", 106) // sun_path has 108 bytes, one of them for the NUL
	if path, err := config.SocketPath("unix://" + longest); err != nil || path != longest {
		t.Errorf("the longest path: %v", err)
	}
	for _, endpoint := range []string{
		"", "/csi/csi.sock", "tcp://127.0.0.1:80", "unix://csi.sock", "unix:csi.sock", "unix:@abstract", "unix:///", "unix:////a",
		"unix:///a/../b", "unix:///a/", "unix:///a\x00b", "unix:///a\nb", "unix:///\xff", "UNIX:///a", "unix://" + longest + "x",
	} {
		if l, err := Listen(endpoint); err == nil {
			l.Close()
			t.Errorf("%q: accepted", endpoint)
		} else if !strings.HasPrefix(err.Error(), "endpoint") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}

func TestCloseRemovesTheSocketOnceAndOnlyItsOwn(t *testing.T) {
	path := fixture.Socket(t)
	first := listen(t, path)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	// A filesystem may give the new socket the same inode number. A second Close of the old one must
	// not remove it.
	listen(t, path)
	if err := first.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if !answers(path) {
		t.Error("the successor no longer answers")
	}
}

func TestCloseLeavesASuccessorsSocketAlone(t *testing.T) {
	path := fixture.Socket(t)
	first := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	listen(t, path)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if !answers(path) {
		t.Error("the successor no longer answers")
	}
}
