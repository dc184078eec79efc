package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Program is a process of any program that a test or a benchmark needs beside the driver.
type Program struct {
	cmd     *exec.Cmd
	exited  chan struct{}
	waitErr error
}

// ProgramOptions say what to start. The process has no environment but Env.
type ProgramOptions struct {
	Binary string
	Args   []string
	Env    []string
	// Log takes what the process writes to its standard output and standard error.
	Log io.Writer
}

// StartProgram starts a process, which ends with this one. It has a process group of its own, so
// that an interrupt from the terminal leaves it to its owner. The caller ends it with Stop or Kill.
func StartProgram(options ProgramOptions) (*Program, error) {
	cmd := exec.Command(options.Binary, options.Args...)
	cmd.Env = append([]string{}, options.Env...)
	cmd.Stdout, cmd.Stderr = options.Log, options.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", options.Binary, err)
	}
	p := &Program{cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.waitErr = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// PID is the process's ID.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Program) Exited() <-chan struct{} { return p.exited }

// Kill ends the process at once, as a crash does, and waits for its end.
func (p *Program) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, syscall.ESRCH) {
		select {
		case <-p.exited:
		default:
			return err
		}
	}
	<-p.exited
	return nil
}

// Stop asks the process to end, and kills it after the grace period.
func (p *Program) Stop(grace time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // a process that has ended is what is wanted
	select {
	case <-p.exited:
		return nil
	case <-time.After(grace):
		return p.Kill()
	}
}

// Poll tries until it gets no error. It gives up when the process or the context ends.
func (p *Program) Poll(ctx context.Context, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s has ended (%w): %w", strings.Join(p.cmd.Args, " "), p.waitErr, err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
