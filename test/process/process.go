// Package process runs the driver as its own process, as kubelet and the sidecars meet it: for the
// tests, the demo and the benchmarks.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// readyTimeout bounds how long a driver may take to say that it is ready.
const readyTimeout = 60 * time.Second

// driverEnv names a driver that has been built already: test/vm sets it, because its machine has no
// Go.
const driverEnv = "CSI_HOSTPATH_TEST_DRIVER"

// Build compiles the driver into dir with those build tags, and returns the binary's path. In the
// virtual machine the driver has the tags of the machine's configuration.
func Build(ctx context.Context, dir string, tags ...string) (string, error) {
	if built := os.Getenv(driverEnv); built != "" {
		return built, nil
	}
	return build(ctx, dir, "CGO_ENABLED=0", "-tags", strings.Join(tags, ","))
}

// BuildRace compiles the driver with the race detector, which needs cgo: what it finds is in the
// log and in the exit code.
func BuildRace(ctx context.Context, dir string) (string, error) {
	return build(ctx, dir, "CGO_ENABLED=1", "-race")
}

func build(ctx context.Context, dir, env string, args ...string) (string, error) {
	binary := filepath.Join(dir, "csi-hostpath")
	// go run keeps the linked program in Go's cache, and go build does not. Many tests need it.
	args = append([]string{"run", "-buildvcs=false", "-exec", "cp"}, args...)
	cmd := exec.CommandContext(ctx, "go",
		append(args, "github.com/csi-hostpath/csi-hostpath/cmd/csi-hostpath", binary)...)
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the driver: %w\n%s", err, out)
	}
	return binary, nil
}

// Options say what to start.
type Options struct {
	Binary string
	// Dir holds the socket and the kubelet's directory; it exists.
	Dir string
	// Pools maps names to paths.
	Pools map[string]string
	// Args and Env are added to what the package passes.
	Args []string
	Env  []string
	// Log takes the driver's standard error.
	Log io.Writer
	// ControlGroup is the directory of a control group that the driver is started in. Default: the
	// caller's own.
	ControlGroup string
}

// NodeName is the name of the driver's node.
const NodeName = "node-1"

// window is gRPC's flow control, in bytes.
const window = 1 << 20

// Process is a driver under test.
type Process struct {
	Identity   csi.IdentityClient
	Controller csi.ControllerClient
	Groups     csi.GroupControllerClient
	Node       csi.NodeClient

	options Options
	cmd     *exec.Cmd
	conn    *grpc.ClientConn
	exited  chan struct{}
	waitErr error
}

// Start starts the driver; it does not wait until it is ready. The caller ends it with Stop or
// Kill.
func Start(options Options) (*Process, error) {
	p := &Process{options: options, exited: make(chan struct{})}
	if err := os.MkdirAll(p.KubeletDir(), 0o750); err != nil {
		return nil, err
	}
	args := []string{
		"serve",
		"--endpoint",
		"unix://" + p.Socket(),
		"--node-name",
		NodeName,
		"--kubelet-dir",
		p.KubeletDir(),
	}
	for name, path := range options.Pools {
		args = append(args, "--pool", name+"="+path)
	}
	p.cmd = command(options, append(args, options.Args...))
	p.cmd.Env = append(os.Environ(), options.Env...)
	p.cmd.Stderr = options.Log
	// A test that is killed takes its driver with it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.waitErr = p.cmd.Wait()
		close(p.exited)
	}()
	return p, p.connect()
}

// command starts the driver in its control group from the first instruction on: what a process has
// allocated before it joins one stays charged to the group that it was in.
func command(options Options, args []string) *exec.Cmd {
	if options.ControlGroup == "" {
		return exec.Command(options.Binary, args...)
	}
	const join = `echo $$ >"$0/cgroup.procs" && exec "$@"`
	shell := []string{"-c", join, options.ControlGroup, options.Binary}
	return exec.Command("/bin/sh", append(shell, args...)...)
}

func (p *Process) connect() (err error) {
	p.conn, err = grpc.NewClient("unix://"+p.Socket(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		// Windows of a fixed size, as the server has them: else the client pings to estimate a
		// bandwidth.
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		// The socket appears milliseconds after the first try; gRPC's own backoff would begin with
		// a second.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay:  2 * time.Millisecond,
				Multiplier: 1.6,
				MaxDelay:   100 * time.Millisecond,
			},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return errors.Join(err, p.Kill())
	}
	p.Identity = csi.NewIdentityClient(p.conn)
	p.Controller = csi.NewControllerClient(p.conn)
	p.Groups = csi.NewGroupControllerClient(p.conn)
	p.Node = csi.NewNodeClient(p.conn)
	return nil
}

// StartReady starts the driver and waits until it is ready.
func StartReady(ctx context.Context, options Options) (*Process, error) {
	p, err := Start(options)
	if err != nil {
		return nil, err
	}
	if err := p.WaitReady(ctx); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}

// WaitReady returns when Probe says ready, or with an error when the process ends or takes too
// long.
func (p *Process) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err := p.pollReady(ctx)
	select {
	case <-p.exited:
		return fmt.Errorf("the driver ended before it was ready: %w", p.waitErr)
	default:
		return err
	}
}

// pollReady gives up when the context or the process ends: nobody answers a call to a process that
// has.
func (p *Process) pollReady(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		resp, err := p.Identity.Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err == nil && resp.GetReady().GetValue() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the driver is not ready after %s: %w", readyTimeout,
				errors.Join(err, ctx.Err()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Socket is the path of the CSI socket.
func (p *Process) Socket() string { return filepath.Join(p.options.Dir, "csi.sock") }

// KubeletDir is the directory that stands for kubelet's.
func (p *Process) KubeletDir() string { return filepath.Join(p.options.Dir, "kubelet") }

// PID is the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Conn is the connection that the clients share.
func (p *Process) Conn() *grpc.ClientConn { return p.conn }

// Exited is closed when the process has ended, however it did.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Kill ends the process with SIGKILL, if it still runs, and waits for it.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-p.exited
	return errors.Join(err, p.closeConn())
}

// Stop ends the process with SIGTERM and reports how it ended: nil for exit code 0.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.exited
	return errors.Join(p.waitErr, p.closeConn())
}

func (p *Process) closeConn() error {
	if p.conn == nil {
		return nil
	}
	return p.conn.Close()
}
