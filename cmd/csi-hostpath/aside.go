package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
)

// asideEnv is set in the process that runAside starts, which writes its exit code to codeFD.
const (
	asideEnv = "CSI_HOSTPATH_ASIDE"
	codeFD   = 3
)

// runAside runs a command in another process of this program, and returns its exit code as soon as
// the command has ended. The process itself may not end, and nobody can kill it: one of its threads
// waits for a filesystem that does not answer (request_wait_answer in fs/fuse/dev.c).
func (p program) runAside(args []string) int {
	code, err := p.waitAside(args)
	if err != nil {
		fmt.Fprintln(p.stderr, "csi-hostpath:", err)
		return command.ExitFailure
	}
	return code
}

func (p program) waitAside(args []string) (code int, err error) {
	//nolint:gosec // this program, as it was called
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asideEnv+"=1")
	outputs := []io.Writer{p.stdout, p.stderr}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return 0, err
	}
	codes, theirs, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer codes.Close()
	cmd.ExtraFiles = []*os.File{theirs} // codeFD
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return 0, err
	}
	var copied sync.WaitGroup
	for i, from := range []io.Reader{stdout, stderr} {
		copied.Go(func() { _, _ = io.Copy(outputs[i], from) })
	}
	copied.Wait()
	said := make([]byte, 1)
	if n, _ := codes.Read(said); n == 1 {
		return int(said[0]), nil
	}
	return 0, errors.Join(errors.New("the check did not end"), cmd.Wait())
}

// exitAside ends a process of runAside.
func exitAside(code int) {
	said := []byte{byte(code)} //nolint:gosec // those of package command
	_, _ = os.NewFile(codeFD, "exit code").Write(said)
	_, _ = os.Stdout.Close(), os.Stderr.Close() // the parent waits for this
	os.Exit(code)
}
