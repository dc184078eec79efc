// Package process names processes so that only those this program started are
// ever ended: a PID alone is reused by the kernel, a PID and a start time is not.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Identity is one process of this boot of the machine.
type Identity struct {
	PID int `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat, in clock ticks since boot.
	StartTime uint64 `json:"startTime"`
}

// Identify reads the identity of a running process.
func Identify(pid int) (Identity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	_, start, err := parseStat(stat)
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Identity{PID: pid, StartTime: start}, nil
}

// parseStat returns the state and the start time out of a /proc/PID/stat line.
// The command name may hold spaces and parentheses, so fields are counted from
// the last closing one (proc_pid_stat(5)).
func parseStat(stat []byte) (state byte, start uint64, err error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("malformed stat line %q", stat)
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("stat line with %d fields after the name, want 20 or more", len(fields))
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("start time in stat line: %w", err)
	}
	return fields[0][0], start, nil
}

// Alive reports whether that very process still runs. A zombie does not.
func (id Identity) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id.PID))
	if err != nil {
		return false
	}
	state, start, err := parseStat(stat)
	return err == nil && start == id.StartTime && state != 'Z' && state != 'X'
}

// Signal sends a signal to that very process; one that is gone is no error.
// The descriptor is opened before the start time is compared, so the PID cannot
// be handed to another process in between (pidfd_open(2)).
func (id Identity) Signal(signal unix.Signal) error {
	if id.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", id.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !id.Alive() {
		return nil
	}
	err = unix.PidfdSendSignal(fd, signal, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %d to process %d: %w", signal, id.PID, err)
	}
	return nil
}

// Kill sends SIGKILL and waits until the process is gone.
func (id Identity) Kill(ctx context.Context) error {
	if err := id.Signal(unix.SIGKILL); err != nil {
		return err
	}
	return id.WaitGone(ctx)
}

// WaitGone returns once the process has ended.
func (id Identity) WaitGone(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for id.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d did not end: %w", id.PID, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}
