package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/vm/guest"
)

// machine says on what was measured, and what.
type machine struct {
	Date       time.Time `json:"date"`
	Commit     string    `json:"commit"`
	CPU        string    `json:"cpu"`
	Cores      int       `json:"cores"`
	Kernel     string    `json:"kernel"`
	Go         string    `json:"go"`
	Filesystem string    `json:"filesystem"`
	Load       string    `json:"load"` // the averages when the run began: what else the machine did
	Command    string    `json:"command"`
	// Emulated: only ratios say something about another machine.
	Emulated bool `json:"emulated,omitempty"`
}

func describeMachine(filesystem string) machine {
	return machine{
		Date:       time.Now().UTC().Truncate(time.Minute),
		Commit:     commit(),
		CPU:        cpu(),
		Cores:      runtime.NumCPU(),
		Kernel:     kernel(),
		Go:         runtime.Version(),
		Filesystem: filesystem,
		Load:       load(),
		Command:    "go run ./test/bench " + strings.Join(os.Args[1:], " "),
		Emulated:   guest.Running(),
	}
}

func (m machine) print(out io.Writer) {
	fmt.Fprintf(out, "%s, commit %s, %s\n", m.Date.Format("2006-01-02 15:04 MST"), m.Commit, m.Go)
	fmt.Fprintf(out, "%d cores of %s, Linux %s, load %s\n", m.Cores, m.CPU, m.Kernel, m.Load)
	fmt.Fprintf(out, "pools on %s; kubelet's directories on another disk, of ext4\n%s\n", m.Filesystem,
		m.Command)
	if m.Emulated {
		fmt.Fprintln(out,
			"The processor is emulated: times are this machine's own, and only ratios are judged.")
	}
}

// commit is unknown outside of a checkout, unless the environment tells.
func commit() string {
	if told := os.Getenv(commitEnv); told != "" {
		return told
	}
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func cpu() string {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	_, rest, _ := strings.Cut(string(content), "model name")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimLeft(line, "\t: ")
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

func load() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(content))[:3], " ")
}
