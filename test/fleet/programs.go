package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// stopGrace is how long a program may take to end.
const stopGrace = 10 * time.Second

// build compiles the controller into dir, and returns the binary's path. As in process.Build, go
// run keeps the linked program in Go's cache.
func build(ctx context.Context, dir string) (string, error) {
	controller := filepath.Join(dir, "csi-hostpath-controller")
	cmd := exec.CommandContext(ctx, "go", "run", "-buildvcs=false", "-exec", "cp",
		"github.com/csi-hostpath/csi-hostpath/cmd/csi-hostpath-controller", controller)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the controller: %w\n%s", err, said)
	}
	return controller, nil
}

// restartDelay is how long a program that has ended stays down: kubelet's first delay is as short.
const restartDelay = time.Second

// program is a container of a pod: it is started again whenever it ends.
type program struct {
	name   string
	host   string // the host name. Default: the name
	binary string
	args   []string
	env    []string
	log    *os.File

	stopped chan struct{}
	ended   chan struct{}

	mu      sync.Mutex
	running *process.Program
}

// newProgram prepares a program whose log is in dir. The caller stops it.
func newProgram(dir, name, binary string, args ...string) (*program, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	return &program{
		name:    name,
		binary:  binary,
		args:    args,
		log:     log,
		stopped: make(chan struct{}),
		ended:   make(chan struct{}),
	}, err
}

// start also starts the program again when it ends.
func (p *program) start() error {
	running, err := p.startOnce()
	if err != nil {
		close(p.ended)
		return err
	}
	go p.supervise(running)
	return nil
}

// startOnce gives the program a host name of its own, as each pod has one: sidecars are told apart
// by it when they elect a leader.
func (p *program) startOnce() (*process.Program, error) {
	const rename = `hostname "$0" && exec "$@"`
	host := cmp.Or(p.host, p.name)
	args := append([]string{"--uts", "/bin/sh", "-c", rename, host, p.binary}, p.args...)
	running, err := process.StartProgram(process.ProgramOptions{
		Binary: "/usr/bin/unshare", Args: args, Env: append([]string{"PATH=/usr/bin:/bin"}, p.env...),
		Log: p.log,
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = running
	return running, err
}

func (p *program) supervise(running *process.Program) {
	defer close(p.ended)
	for {
		select {
		case <-p.stopped:
			_ = running.Stop(stopGrace) // it is killed in the end
			return
		case <-running.Exited():
		}
		select {
		case <-p.stopped:
			return
		case <-time.After(restartDelay):
		}
		again, err := p.startOnce()
		if err != nil {
			return // there are no processes left: the waits of the bench say so
		}
		running = again
	}
}

// now is the process that runs, or the last that has.
func (p *program) now() *process.Program {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running
}

// stop also closes the log.
func (p *program) stop() error {
	close(p.stopped)
	<-p.ended
	return p.log.Close()
}

// lastWords is the end of the program's log, for errors.
func (p *program) lastWords() string {
	content, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
