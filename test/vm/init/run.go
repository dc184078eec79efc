package main

import (
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

// drainTime is how long a program's output may go on after its end: a process that it has left may
// have it open.
const drainTime = time.Second

// run runs a program and returns its exit code: 128 plus the signal when it was killed, 127 when it
// did not start.
func run(program job.Program, environment []string, output func(string)) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	process, err := os.StartProcess(
		program.Path,
		append([]string{program.Path}, program.Args...),
		&os.ProcAttr{
			Dir:   program.Dir,
			Env:   slices.Concat(os.Environ(), []string{"HOME=/root"}, environment, program.Env),
			Files: []*os.File{nil, w, w},
		},
	)
	w.Close()
	if err != nil {
		output(err.Error() + "\n")
		return 127, nil
	}
	pid := process.Pid
	if err := process.Release(); err != nil {
		return 0, err
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		drain(r, output)
	}()
	code, err := wait(pid)
	if err := r.SetReadDeadline(time.Now().Add(drainTime)); err != nil {
		return code, err
	}
	<-drained
	return code, err
}

func drain(r io.Reader, output func(string)) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.Read(buffer)
		if n > 0 {
			output(string(buffer[:n]))
		}
		if err != nil {
			return
		}
	}
}

// wait reaps every process that ends, as the first process has to, until the program itself does.
func wait(program int) (int, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("wait4", err)
		}
		if pid != program {
			continue
		}
		if status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return status.ExitStatus(), nil
	}
}
