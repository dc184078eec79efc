package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

const (
	// maxSocketBytes: sun_path has 108 bytes, the last of them for the final NUL (unix(7)).
	maxSocketBytes = 107
	// socketMode: only root may talk to the driver; a CSI socket is root on the node.
	socketMode = 0o600
	// groupSocketMode is that of the sidecars' socket, which does not mount.
	groupSocketMode = 0o660
	// dialTimeout bounds the question whether somebody answers on an existing socket.
	dialTimeout = time.Second
	// lockTimeout bounds the wait for another process that is in Listen for the same directory.
	lockTimeout = 5 * time.Second
	lockRetry   = 10 * time.Millisecond
)

// Listen makes the driver's socket: unix:///absolute/path or unix:/absolute/path, mode 0600 from
// its first moment, in a directory that exists. A socket on which nobody answers is replaced; one
// that is in use, and anything that is not a socket, is left alone and refused. Closing the
// listener removes the socket if it still is the one made here.
func Listen(endpoint string) (net.Listener, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", endpoint, err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", endpoint, err)
	}
	l, err := bind(path)
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", endpoint, err)
	}
	return l, nil
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

// admitGroup opens the socket at path to a group. It works on a descriptor, because the name may
// lie in a directory where others can exchange it; and after bind(2), because the umask takes the
// group's right from what restrict asks for.
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
	// fchmod(2) refuses an O_PATH descriptor; the link in /proc leads to the same inode.
	return os.Chmod(openat.Path(socket), groupSocketMode)
}

// socketPath is the path in an endpoint.
func socketPath(endpoint string) (string, error) {
	path, isUnix := strings.CutPrefix(endpoint, "unix:")
	path = strings.TrimPrefix(path, "//")
	switch {
	case !isUnix || !filepath.IsAbs(path):
		return "", fmt.Errorf("%s must be unix:///absolute/path", quote(endpoint))
	case hasControl(path):
		return "", fmt.Errorf("%s must be UTF-8 without control characters", quote(endpoint))
	case filepath.Clean(path) != path || path == "/":
		return "", fmt.Errorf("%s must name a socket, written without \"..\", \".\" and needless slashes",
			quote(endpoint))
	case len(path) > maxSocketBytes:
		return "", fmt.Errorf("%s: the path has %d bytes, a socket's may have %d", quote(endpoint),
			len(path), maxSocketBytes)
	}
	return path, nil
}

// lockDir keeps two processes from replacing each other's socket in dir. The lock is the kernel's
// and dies with us.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the directory %s does not exist: make it, or mount it into the container",
			dir)
	case err != nil:
		return nil, err
	}
	deadline := time.Now().Add(lockTimeout)
	for {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { d.Close() }, nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline):
			d.Close()
			return nil, fmt.Errorf("cannot lock the directory %s: %w", dir, err)
		default:
			time.Sleep(lockRetry)
		}
	}
}

// removeStale clears the path of a socket that a dead process left, and refuses everything else.
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
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(context.Background(), "unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("%s is in use: another process answers on it", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		// A full backlog (EAGAIN), a socket of another kind (EPROTOTYPE): somebody's, so not ours
		// to remove.
		return fmt.Errorf("%s is in use, or nobody can tell: %w", path, err)
	}
}

// bind makes the socket and listens on it.
func bind(path string) (net.Listener, error) {
	config := net.ListenConfig{Control: restrict}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s: a %T is no unix socket", path, l), l.Close())
	}
	u.SetUnlinkOnClose(false) // by name, whoever's it is by then
	info, err := os.Lstat(path)
	if err != nil {
		u.Close()
		return nil, err
	}
	// Believe the disk: a kernel that ignores restrict must not leave a socket open to all.
	if info.Mode() != fs.ModeSocket|socketMode {
		err := fmt.Errorf("the socket %s got mode %v instead of %v", path, info.Mode(),
			fs.ModeSocket|socketMode)
		return nil, errors.Join(err, os.Remove(path), u.Close())
	}
	return &listener{UnixListener: u, path: path, made: info}, nil
}

// restrict runs between socket(2) and bind(2). Linux gives the file the mode of the descriptor
// (unix_bind in net/unix/af_unix.c), so there is no moment at which others may connect, and no
// umask is changed under other threads.
func restrict(_, _ string, conn syscall.RawConn) error {
	var chmodErr error
	err := conn.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) })
	return errors.Join(err, chmodErr)
}

// listener removes its socket when it is closed, and no other.
type listener struct {
	*net.UnixListener
	path string
	made fs.FileInfo
	once sync.Once
}

// Close stops listening. The file goes first: as long as the socket is open its inode number is not
// given away, so that the comparison cannot mistake a successor's socket for ours.
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
