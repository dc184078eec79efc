package mount

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// HasOwnNamespace reports whether this process runs in another mount namespace than the processes
// that started it, as in a container or under unshare(1): then its mounts appear on the node only
// where the mount namespaces share them. What cannot be read counts as the same namespace.
func HasOwnNamespace() bool {
	own, err := namespaceOf("self")
	if err != nil {
		return false
	}
	for pid := os.Getpid(); pid > 0; {
		// A process without rights over another one gets EACCES (ptrace(2), PTRACE_MODE_READ).
		if other, err := namespaceOf(strconv.Itoa(pid)); err == nil && other != own {
			return true
		}
		parent, err := parentOf(pid)
		if err != nil {
			return false
		}
		// A process whose parent is outside of its PID namespace was started into a container. The
		// parent of a container's main process is outside too, but so is that of a machine's init.
		if parent == 0 && (pid != 1 || pid == os.Getpid()) {
			return true
		}
		pid = parent
	}
	return false
}

// namespaceOf returns the mount namespace of a process (namespaces(7)).
func namespaceOf(process string) (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/%s/ns/mnt", process))
}

// parentOf returns the parent of a process; 0 if that is in no PID namespace of this process.
func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// "PID (COMMAND) STATE PARENT …": a command may have spaces and parentheses (proc_pid_stat(5)).
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat is %q", pid, text)
	}
	return strconv.Atoi(fields[1])
}
