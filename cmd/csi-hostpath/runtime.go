package main

import (
	"os"
	"runtime"
	"runtime/debug"
)

// spareProcessors lets twice as many goroutines run as there are processors. A copy is in system
// calls most of its time. Go takes its processor away only after a while, and polls the sockets
// only when a processor is free, so a call could wait for 10 ms. With more of Go's processors the
// kernel decides who runs, and a copy has the lower priority.
func spareProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0))
	}
}

// gcPercent costs some MiB. With Go's default, 100, a driver with a small heap would collect
// garbage many times a second under load.
const gcPercent = 400

// collectLessOften sets gcPercent, unless GOGC is set.
func collectLessOften() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
