// Package process names processes so that only those this program started are
// ever ended: a PID alone is reused by the kernel, a PID and a start time is not.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	parsed, err := parseStat(stat)
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Identity{PID: pid, StartTime: parsed.start}, nil
}

// stat is what we need of a /proc/PID/stat line.
type stat struct {
	state  byte
	parent int
	start  uint64
}

// parseStat counts fields from the last closing parenthesis: the command name may
// hold spaces and parentheses (proc_pid_stat(5)).
func parseStat(line []byte) (stat, error) {
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("malformed stat line %q", line)
	}
	fields := bytes.Fields(line[end+1:])
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("stat line with %d fields after the name, want 20 or more", len(fields))
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return stat{}, fmt.Errorf("parent in stat line: %w", err)
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("start time in stat line: %w", err)
	}
	return stat{state: fields[0][0], parent: parent, start: start}, nil
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
	parsed, err := parseStat(stat)
	return err == nil && parsed.start == id.StartTime && parsed.state != 'Z' && parsed.state != 'X'
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

// Descendants returns the processes below root that run a program of this file
// name. Those of containers are found too: their orphans go to a process below root.
func Descendants(root Identity, program string) ([]Identity, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	parents := map[int]int{}
	var candidates []Identity
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // ended meanwhile
		}
		parsed, err := parseStat(line)
		if err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		parents[pid] = parsed.parent
		if runs(pid, program) {
			candidates = append(candidates, Identity{PID: pid, StartTime: parsed.start})
		}
	}
	var found []Identity
	for _, candidate := range candidates {
		if root.Alive() && isBelow(candidate.PID, root.PID, parents) {
			found = append(found, candidate)
		}
	}
	return found, nil
}

func runs(pid int, program string) bool {
	executable, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && filepath.Base(strings.TrimSuffix(executable, " (deleted)")) == program
}

func isBelow(pid, root int, parents map[int]int) bool {
	for pid = parents[pid]; pid > 0; pid = parents[pid] {
		if pid == root {
			return true
		}
	}
	return false
}
