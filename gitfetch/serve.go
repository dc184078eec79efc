package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

// hardTimeout ends the process of a request, whatever its own limit is.
const hardTimeout = 15 * time.Minute

// maxLog bounds, in bytes, what one request adds to the log.
const maxLog = 4 << 10

// clippedWriter drops what is more than it may write.
type clippedWriter struct {
	to   io.Writer
	left int
}

func (w *clippedWriter) Write(b []byte) (int, error) {
	part := b[:min(len(b), w.left)]
	w.left -= len(part)
	if _, err := w.to.Write(part); err != nil {
		return 0, err
	}
	return len(b), nil
}

// serve accepts connections until the context ends, and waits for the processes.
func serve(ctx context.Context, o options, args []string) error {
	listener, err := listen(o.socket)
	if err != nil {
		return err
	}
	return serveOn(ctx, o, listener, args)
}

// serveOn closes the listener.
func serveOn(ctx context.Context, o options, listener *net.UnixListener, args []string) error {
	if err := os.MkdirAll(o.cache, 0o700); err != nil {
		return errors.Join(err, listener.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	klog.InfoS("Waiting for the driver", "socket", o.socket, "jobs", o.jobs)
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, o.jobs)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		running.Go(func() {
			defer func() { <-slots }()
			if err := start(ctx, o, conn, args); err != nil {
				klog.ErrorS(err, "A request ended early")
			}
			if err := trim(o.cache, o.keptBytes()); err != nil {
				klog.ErrorS(err, "Cannot trim the cache", "cache", o.cache)
			}
		})
	}
}

// listen replaces the socket of an earlier process.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// The driver is root. Nobody else may connect.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// start has a process serve a connection, and waits for its end.
func start(ctx context.Context, o options, conn *net.UnixConn, args []string) error {
	defer func() { _ = conn.Close() }()
	file, err := conn.File()
	if err != nil {
		return err
	}
	defer file.Close()
	ctx, cancel := context.WithTimeout(ctx, hardTimeout)
	defer cancel()
	// #nosec G702 -- this program, with the arguments that it was started with
	cmd := exec.CommandContext(ctx, o.program, append([]string{fetchCommand}, args...)...)
	began, beganChild, err := os.Pipe()
	if err != nil {
		return err
	}
	defer began.Close()
	cmd.ExtraFiles = []*os.File{file, beganChild}
	cmd.Stdout, cmd.Stderr = os.Stdout, &clippedWriter{to: os.Stderr, left: maxLog}
	// No variable of the container reaches git's code: no proxy, no agent, no trace.
	// The last words of a process that panics are one line. Of one without memory they are many.
	cmd.Env = []string{
		"GOMEMLIMIT=" + strconv.FormatInt(o.heap(), 10), "GOTRACEBACK=none",
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	beganChild.Close()
	if err != nil {
		return err
	}
	if err = limit(cmd.Process.Pid, o); err != nil {
		_ = cmd.Process.Kill()
	}
	err = errors.Join(err, cmd.Wait())
	if n, _ := began.Read(make([]byte, 1)); n == 0 && err != nil && ctx.Err() == nil {
		err = errors.Join(err, answerFor(conn, o, err))
	}
	return err
}

// answerFor answers for a process that has ended without an answer. That of a repository which
// needs more memory than there is cannot answer itself: Go ends it.
func answerFor(conn *net.UnixConn, o options, cause error) error {
	exit, ok := errors.AsType[*exec.ExitError](cause)
	if ok && exit.ExitCode() == exitAbandoned {
		return gitwire.WriteMessage(conn, gitwire.Answer{
			Version: gitwire.Version, Fault: gitwire.Unreachable, Message: timeIsOver,
		})
	}
	if ok && exit.ExitCode() == exitFailed {
		return gitwire.WriteMessage(conn, gitwire.Answer{
			Version: gitwire.Version, Fault: gitwire.Internal,
			Message: "the process that fetches has failed: see the log of container git-fetcher",
		})
	}
	return gitwire.WriteMessage(conn, gitwire.Answer{
		Version: gitwire.Version, Fault: gitwire.TooLarge,
		Message: fmt.Sprintf("the process that fetches has ended (%v), as it does when the repository or "+
			"a file in it needs more than %d MiB of memory: see the log of container git-fetcher", cause,
			o.childMemory()>>20),
	})
}

// limit bounds a process. It reads its request only after it has started, and what it does before
// needs little.
func limit(pid int, o options) error {
	// #nosec G115 -- positive numbers
	for resource, value := range map[int]uint64{
		unix.RLIMIT_DATA:   uint64(o.childMemory()),
		unix.RLIMIT_FSIZE:  uint64(o.packBytes()),
		unix.RLIMIT_CORE:   0,
		unix.RLIMIT_NOFILE: 256,
		unix.RLIMIT_CPU:    uint64(hardTimeout / time.Second),
	} {
		bound := unix.Rlimit{Cur: value, Max: value}
		if err := unix.Prlimit(pid, resource, &bound, nil); err != nil {
			return fmt.Errorf("prlimit %d: %w", resource, err)
		}
	}
	return nil
}
