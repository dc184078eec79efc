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

// Env names the environment variable with the point at which to die: "PREFIX:N" kills the process
// with SIGKILL when it passes a point whose name begins with PREFIX for the N-th time, from 1. A
// test that counts N up until the process survives has killed it at every step.
const Env = "CSI_HOSTPATH_FAILPOINT"

//nolint:gochecknoglobals // a point may be in any function, and has no other way to know
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
	select {} // until the signal arrives
}

func parse(s string) (string, int64) {
	prefix, count, _ := strings.Cut(s, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if s != "" && (err != nil || n < 1) {
		panic(Env + "=" + s + ": want PREFIX:N with N from 1")
	}
	return prefix, n
}
