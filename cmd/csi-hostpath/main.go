// Command csi-hostpath is the driver: flags, signals and exit codes; everything else is pkg/driver.
package main

import (
	"os"
	"runtime"

	"github.com/csi-hostpath/csi-hostpath/pkg/driver"
)

func main() {
	spareProcessors()
	os.Exit(program{serve: driver.Run, stdout: os.Stdout, stderr: os.Stderr}.run(os.Args[1:]))
}

// spareProcessors lets twice as many goroutines run as there are processors. A copy is in system calls most of its time; Go takes a
// processor away from such a goroutine only after a while, and looks at the sockets only when one is free: a call that came meanwhile
// waited up to 10 ms. Now the kernel decides who runs, and the copy has the lower priority.
func spareProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0))
	}
}
