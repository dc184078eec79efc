package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	// hardTimeout ends the process of a request, whatever its own limit is.
	hardTimeout = 15 * time.Minute
	// hardFileSize bounds each file of a process, thereby a pack.
	hardFileSize = 8 << 30
)

// serve accepts connections until the context ends, and waits for the processes.
func serve(ctx context.Context, o options, args []string) error {
	listener, err := listen(o.socket)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.cache, 0o700); err != nil {
		return err
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
				klog.ErrorS(err, "A request ended without an answer")
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
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{fetchCommand}, args...)...)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// No variable of the container reaches git's code: no proxy, no agent, no trace.
	cmd.Env = []string{"GOMEMLIMIT=" + strconv.FormatInt(o.memory/4*3, 10)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = limit(cmd.Process.Pid, o.memory)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	return errors.Join(err, cmd.Wait())
}

// limit bounds a process. It reads its request only after it has started, and what it does before
// needs little.
func limit(pid int, memory int64) error {
	// #nosec G115 -- positive numbers
	for resource, value := range map[int]uint64{
		unix.RLIMIT_DATA:   uint64(memory),
		unix.RLIMIT_FSIZE:  hardFileSize,
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
