package command

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// heapPercent is how much of the memory of its control group the process uses for Go's heap and
// stacks; the rest is for the program itself, the kernel's buffers and what is between two
// collections.
const heapPercent = 75

// KeepWithinMemory collects garbage more often when the limit of the control group is near.
// Otherwise the kernel would kill the process because of garbage. GOMEMLIMIT overrides it.
func KeepWithinMemory() {
	if limit := groupMemory("/sys/fs/cgroup", "/proc/self/cgroup"); os.Getenv("GOMEMLIMIT") == "" &&
		limit > 0 {
		debug.SetMemoryLimit(limit / 100 * heapPercent)
	}
}

// groupMemory is the memory limit in bytes of the process's control group, and 0 where there is
// none. It asks cgroup v2 and the memory hierarchy of v1. In a container the group that membership
// names may be mounted as the root.
func groupMemory(root, membership string) int64 {
	groups, err := os.ReadFile(membership)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(groups) {
		fields := strings.SplitN(strings.TrimSpace(string(line)), ":", 3) // cgroups(7)
		if len(fields) != 3 {
			continue
		}
		var files []string
		switch {
		case fields[0] == "0":
			files = []string{
				filepath.Join(root, fields[2], "memory.max"), filepath.Join(root, "memory.max"),
			}
		case fields[1] == "memory":
			files = []string{
				filepath.Join(root, "memory", fields[2], "memory.limit_in_bytes"),
				filepath.Join(root, "memory", "memory.limit_in_bytes"),
			}
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			// "max" is no limit, and v1 has a number near the largest for that
			limit, parseErr := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err == nil && parseErr == nil {
				return limit
			}
		}
	}
	return 0
}
