package serving

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

const (
	// socketMode: whoever may call the driver is root on the node.
	socketMode = 0o600
	// groupSocketMode is the mode of the sidecars' socket, which has no calls that mount.
	groupSocketMode = 0o660
	// socketAnswerTimeout bounds how long a process may take to answer on its socket.
	socketAnswerTimeout = 3 * time.Second
	// http2Preface is how a client begins (RFC 9113, 3.4), with SETTINGS that are empty. A server
	// sends its own at once.
	http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
)

// Listen makes the driver's socket: unix:///absolute/path or unix:/absolute/path, in a directory
// that exists. Its mode is 0600 from the first moment. A socket on which nobody answers within
// socketAnswerTimeout is replaced. A socket on which somebody answers, and anything else at that
// path, is left alone and refused. Closing the listener removes the socket, unless another process
// has replaced it.
func Listen(endpoint string) (net.Listener, error) {
	path, err := config.SocketPath(endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	l, err := listenAt(path)
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", endpoint, err)
	}
	return l, nil
}

func listenAt(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the directory %s does not exist: make it, or mount it into the container",
			dir)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	return bind(path)
}

// ListenForGroup is Listen, but the members of a group may connect too: the socket's mode is 0660.
func ListenForGroup(endpoint string, gid uint32) (net.Listener, error) {
	l, err := Listen(endpoint)
	if err != nil {
		return nil, err
	}
	if err := admitGroup(l.Addr().String(), gid); err != nil {
		return nil, errors.Join(fmt.Errorf("endpoint %s: %w", endpoint, err), l.Close())
	}
	return l, nil
}

// admitGroup gives a group access to the socket at path. It uses a descriptor, because others may
// be able to replace what is at the path. It runs after bind(2), because bind(2) would apply the
// umask to the group's rights.
func admitGroup(path string, gid uint32) error {
	socket, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer socket.Close()
	if info, err := socket.Stat(); err != nil || info.Mode() != fs.ModeSocket|socketMode {
		return errors.Join(fmt.Errorf("%s was exchanged for something else", path), err)
	}
	if err := unix.Fchownat(int(socket.Fd()), "", -1, int(gid), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("give %s to group %d: %w", path, gid, err)
	}
	// The ACL that the socket may have inherited would admit others once the mode is wider.
	if err := openat.RemoveACLs(socket); err != nil {
		return err
	}
	// fchmod(2) refuses an O_PATH descriptor; the link in /proc leads to the same inode.
	return os.Chmod(openat.Path(socket), groupSocketMode)
}

// removeStale removes a socket that a dead process has left, also one that the kernel cannot end,
// and refuses everything else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf(
			"%s exists and is not a socket: it is left alone, remove it or choose another endpoint",
			path,
		)
	}
	err = ask(path, time.Now().Add(socketAnswerTimeout))
	switch {
	case err == nil:
		return fmt.Errorf("%s is in use: another process answers on it", path)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, errSilent):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		// EAGAIN is a full backlog, EPROTOTYPE a socket of another kind: another process owns it.
		return fmt.Errorf("%s is in use, or nobody can tell: %w", path, err)
	}
}

// errSilent: a connection was made, and nobody has taken it.
var errSilent = errors.New("nobody answers")

// ask returns nil if a process takes a connection. That one is made says little: the kernel makes
// it also for a process that was killed and cannot end, because one of its threads waits for a
// filesystem that hangs. Errors: errSilent, those of connect(2).
func ask(path string, deadline time.Time) error {
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.DialContext(context.Background(), "unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(http2Preface)); err != nil {
		return nil // somebody has closed the connection
	}
	_, err = conn.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // an answer, or somebody has closed the connection
	}
	unread, err := unreadBytes(conn)
	if err == nil && unread > 0 {
		err = errSilent
	}
	return err
}

// unreadBytes says how much of what was written to a connection the other side has not read: a
// process of another protocol may read, and not answer. The number is that of the kernel's memory
// for it (SIOCOUTQ, unix_outq_len in net/unix/af_unix.c).
func unreadBytes(conn net.Conn) (n int, err error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("a %T is no connection of a unix socket", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var askErr error
	err = raw.Control(func(fd uintptr) { n, askErr = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	return n, errors.Join(err, askErr)
}

// bind makes the socket and listens on it.
func bind(path string) (net.Listener, error) {
	private := net.ListenConfig{Control: restrict}
	l, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s: a %T is no unix socket", path, l), l.Close())
	}
	u.SetUnlinkOnClose(false) // It would remove the socket of a successor.
	info, err := os.Lstat(path)
	if err != nil {
		u.Close()
		return nil, err
	}
	// A kernel that ignores restrict must not leave a socket open to all.
	if info.Mode() != fs.ModeSocket|socketMode {
		err := fmt.Errorf("the socket %s got mode %v instead of %v", path, info.Mode(),
			fs.ModeSocket|socketMode)
		return nil, errors.Join(err, os.Remove(path), u.Close())
	}
	return &listener{UnixListener: u, path: path, made: info}, nil
}

// restrict runs between socket(2) and bind(2). Linux gives the file the mode of the descriptor
// (unix_bind in net/unix/af_unix.c). So others can never connect, and the umask, which all threads
// share, does not change.
func restrict(_, _ string, conn syscall.RawConn) error {
	var chmodErr error
	err := conn.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) })
	return errors.Join(err, chmodErr)
}

// listener removes its own socket when it is closed.
type listener struct {
	*net.UnixListener
	path string
	made fs.FileInfo
	once sync.Once
}

// Close stops listening. It removes the file first: while the socket is open, its inode number is
// not used again, so the socket of a successor cannot be mistaken for this one.
func (l *listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		var removeErr error
		if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(now, l.made) {
			removeErr = os.Remove(l.path)
		}
		err = errors.Join(removeErr, l.UnixListener.Close())
	})
	return err
}
