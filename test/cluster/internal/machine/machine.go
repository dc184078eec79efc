package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/process"
)

// Machine is a running (or ended) machine, named by its PID 1.
type Machine struct {
	Name string           `json:"name"`
	Init process.Identity `json:"init"`
}

// Files says where on the host a machine is started from.
type Files struct {
	// InitProgram is the machineinit program, SpecFile what it reads, LogFile
	// where it writes.
	InitProgram, SpecFile, LogFile string
	// Listener is passed on for Spec.Forward; nil for none.
	Listener *os.File
}

// Pending is a machine whose namespaces exist, but whose PID 1 waits to be
// released: so its network can be made, and its PID recorded, before anything
// runs in it. When this process dies first, the machine ends by itself.
type Pending struct {
	Machine
	release *os.File
}

// Prepare starts PID 1 of a machine.
func Prepare(name string, files Files) (*Pending, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = read.Close() }()
	log, err := os.OpenFile(files.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		_ = write.Close()
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(files.InitProgram, files.SpecFile)
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{read}
	if files.Listener != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, files.Listener)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("start machine %s: %w (needs root and namespaces in the kernel)", name,
			err)
	}
	// Nobody else can reap it while this process lives.
	go func() { _ = cmd.Wait() }()
	identity, err := process.Identify(cmd.Process.Pid)
	if err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("machine %s ended at once: %w (see %s)", name, err, files.LogFile)
	}
	return &Pending{Machine: Machine{Name: name, Init: identity}, release: write}, nil
}

// Release lets PID 1 go on.
func (p *Pending) Release() error {
	_, err := p.release.Write([]byte{1})
	return errors.Join(err, p.release.Close())
}

// Abandon makes PID 1 end without having done anything.
func (p *Pending) Abandon() error { return p.release.Close() }

// Alive reports whether the machine runs.
func (m Machine) Alive() bool { return m.Init.Alive() }

// Kill ends every process of the machine at once, as a power cut does, and
// waits until its PID 1 is gone; the kernel ends the others before it
// (pid_namespaces(7)).
func (m Machine) Kill(ctx context.Context) error {
	if err := m.Init.Kill(ctx); err != nil {
		return fmt.Errorf("stop machine %s: %w", m.Name, err)
	}
	return nil
}

// Path returns the host's view of a path inside the machine.
func (m Machine) Path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(m.Init.PID), "root", inside)
}

// Command returns a command that will run inside the machine.
func (m Machine) Command(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{
		"--target",
		strconv.Itoa(m.Init.PID),
		"--mount",
		"--pid",
		"--net",
		"--uts",
		"--ipc",
		"--wd=/",
		"--",
	}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}

// Run runs a command inside the machine and returns what it printed. Its error
// holds what the command said.
func (m Machine) Run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	if !m.Alive() {
		return nil, fmt.Errorf("machine %s is not running: start it first", m.Name)
	}
	cmd := m.Command(ctx, args...)
	cmd.Stdin = stdin
	output, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return output, fmt.Errorf("%s: %v: %w: %s", m.Name, args, err, exit.Stderr)
	}
	if err != nil {
		return output, fmt.Errorf("%s: %v: %w", m.Name, args, err)
	}
	return output, nil
}
