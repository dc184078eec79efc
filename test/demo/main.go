// Command demo does with the driver what kubelet does, through the driver's socket, and shows each
// step with its time. `make demo` runs it. It needs root, because it mounts, and leaves nothing
// behind, also when it is interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// The exit codes; a shell shows a program that SIGINT ended as 130.
const (
	exitFailure     = 1
	exitInterrupted = 130
)

func main() { os.Exit(run(os.Stdout, os.Stderr)) }

// run is the whole program. The signals are caught to the end, so that no second one stops the
// cleaning up, which takes milliseconds.
func run(out, complaints io.Writer) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(complaints, "demo: mounting needs root: run `sudo make demo`")
		return exitFailure
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM,
		syscall.SIGHUP)
	defer stop()
	start := time.Now()
	failure, rests := perform(ctx, out)
	if rests != nil {
		fmt.Fprintf(complaints, "demo: could not clean up: %v\n", rests)
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(out, "\nInterrupted.")
		return exitInterrupted
	case failure != nil:
		fmt.Fprintf(complaints, "demo: %v\n", failure)
		return exitFailure
	case rests != nil:
		return exitFailure
	}
	fmt.Fprintf(out, "\nAll of it took %s.\n", short(time.Since(start)))
	return 0
}

// perform builds the scene, plays on it, and takes it down whatever happens in between, a panic
// included.
func perform(ctx context.Context, out io.Writer) (failure, rests error) {
	s, err := newScene(out)
	if err != nil {
		return err, nil
	}
	defer func() { rests = s.close() }()
	if err := s.play(ctx); err != nil {
		return errors.Join(err, s.driverLog()), nil
	}
	return nil, nil
}
