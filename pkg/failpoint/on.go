//go:build failpoint

// Package failpoint lets a test kill the driver at a chosen step of its commit protocol.
package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env names the points to die at: "PREFIX:N" kills the process with SIGKILL at the N-th passing,
// from 1, of a point whose name begins with PREFIX. A test that counts N up until the process
// survives has been at every step.
const Env = "CSI_HOSTPATH_FAILPOINT"

//nolint:gochecknoglobals // a point is a line in any function: it has nothing else to ask
var (
	prefix, at = parse(os.Getenv(Env))
	passed     atomic.Int64
)

// Here marks a step at which a crash must be safe.
func Here(point Point) {
	if at == 0 || !strings.HasPrefix(string(point), prefix) || passed.Add(1) != at {
		return
	}
	_, _ = os.Stderr.WriteString("failpoint: killed at " + string(point) + "\n")
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way: nothing more happens in this process
}

func parse(s string) (string, int64) {
	prefix, count, _ := strings.Cut(s, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if s != "" && (err != nil || n < 1) {
		panic(Env + "=" + s + ": want PREFIX:N with N from 1")
	}
	return prefix, n
}
