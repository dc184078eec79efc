package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory is what a process has resident now, and had at most, in MiB (proc_pid_status(5)).
func Memory(pid int) (now, most float64, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseFloat(
			strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")),
			64,
		)
		switch name {
		case "VmRSS":
			now = kib / 1024
		case "VmHWM":
			most = kib / 1024
		}
	}
	return now, most, nil
}
