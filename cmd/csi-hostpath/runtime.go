package main

import (
	"os"
	"runtime"
	"runtime/debug"
)

// spareProcessors lets twice as many goroutines run as there are processors. A copy is in system
// calls most of its time; Go takes a processor away from such a goroutine only after a while, and
// looks at the sockets only when one is free: a call that came meanwhile waited up to 10 ms. Now
// the kernel decides who runs, and the copy has the lower priority.
func spareProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0))
	}
}

// gcPercent costs some MiB: an idle driver has little in its heap, and would collect garbage many
// times a second under load.
const gcPercent = 400

// collectLessOften leaves the last word to GOGC.
func collectLessOften() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
