// Command csi-hostpath is the driver: flags, signals and exit codes; everything else is pkg/driver.
package main

import (
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/driver"
)

func main() {
	os.Exit(program{serve: driver.Run, stdout: os.Stdout, stderr: os.Stderr}.run(os.Args[1:]))
}
