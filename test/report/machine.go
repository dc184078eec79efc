package report

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

// CommitEnv is the environment variable that tells a benchmark what it is built from, where there
// is no checkout.
const CommitEnv = "CSI_HOSTPATH_BENCH_COMMIT"

// Machine says on what was measured, and what.
type Machine struct {
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

// DescribeMachine describes this machine now. The command is the one that was run, without its
// arguments; the filesystem is what the pools are on.
func DescribeMachine(command, filesystem string) Machine {
	return Machine{
		Date:       time.Now().UTC().Truncate(time.Minute),
		Commit:     Commit(),
		CPU:        cpu(),
		Cores:      runtime.NumCPU(),
		Kernel:     kernel(),
		Go:         runtime.Version(),
		Filesystem: filesystem,
		Load:       Load(),
		Command:    strings.Join(append([]string{command}, os.Args[1:]...), " "),
		Emulated:   guest.Running(),
	}
}

// Print writes the description as the head of a report.
func (m Machine) Print(out io.Writer) {
	fmt.Fprintf(out, "%s, commit %s, %s\n", m.Date.Format("2006-01-02 15:04 MST"), m.Commit, m.Go)
	fmt.Fprintf(out, "%d cores of %s, Linux %s, load %s\n", m.Cores, m.CPU, m.Kernel, m.Load)
	fmt.Fprintf(out, "pools on %s\n%s\n", m.Filesystem, m.Command)
	if m.Emulated {
		fmt.Fprintln(out,
			"The processor is emulated: times are this machine's own, and only ratios are judged.")
	}
}

// Commit is unknown outside of a checkout, unless CommitEnv tells.
func Commit() string {
	if told := os.Getenv(CommitEnv); told != "" {
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

// Load is the machine's load averages of 1, 5 and 15 minutes.
func Load() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(content))[:3], " ")
}
