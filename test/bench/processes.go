package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// tracedCycles are enough to meet every code path of the cycle; strace makes them slow.
const tracedCycles = 20

// started matches a line of strace about a new process. A clone with CLONE_THREAD is a thread of
// the Go runtime.
var started = regexp.MustCompile(`\b(fork|vfork|execve|execveat|clone|clone3)\(`)

// processes counts what the driver starts during cycles: it should be nothing.
func (b *bench) processes(ctx context.Context) error {
	path, err := exec.LookPath("strace")
	if err != nil {
		return errors.New("needs strace: run hack/ensure-packages as root")
	}
	p, _, err := b.driver(ctx, "cycle")
	if err != nil {
		return err
	}
	s, err := newSockets(p, 1)
	if err != nil {
		return err
	}
	trace := filepath.Join(b.dir, "strace.out")
	detach, err := attach(ctx, path, trace, p.PID())
	if err != nil {
		return err
	}
	for range tracedCycles {
		if _, err := s.cycle(ctx, 0, volumeName()); err != nil {
			return errors.Join(err, detach())
		}
	}
	if err := detach(); err != nil {
		return err
	}
	count, err := countProcesses(trace)
	if err != nil {
		return err
	}
	b.report.Chapter(
		"Processes",
		report.NewRow(
			fmt.Sprintf("started by the driver in %d cycles (strace)", tracedCycles),
			"processes",
			[]float64{float64(count)},
		).AtMost(
			0,
		),
	)
	return b.stop(p)
}

// attach returns when strace sees every thread of the process, those to come included.
func attach(ctx context.Context, strace, output string, pid int) (detach func() error, err error) {
	cmd := exec.CommandContext(ctx, strace, "-f", "-e", "trace=process", "-o", output, "-p",
		strconv.Itoa(pid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "attached") {
			return func() error { return end(cmd, lines) }, nil
		}
	}
	return nil, fmt.Errorf("strace did not attach: %w", cmd.Wait())
}

// end asks strace to let go. It passes the signal on by its own exit status, which says nothing
// here.
func end(cmd *exec.Cmd, said *bufio.Scanner) error {
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	for said.Scan() { // so that it never waits for a full pipe
	}
	var status *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &status) {
		return err
	}
	return nil
}

func countProcesses(trace string) (count int, err error) {
	f, err := os.Open(trace)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if started.MatchString(lines.Text()) && !strings.Contains(lines.Text(), "CLONE_THREAD") {
			count++
		}
	}
	return count, lines.Err()
}
