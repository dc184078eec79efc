// Command csi-hostpath is the driver: flags, signals and exit codes; everything else is pkg/driver.
package main

import (
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/driver"
)

func main() {
	p, args := program{serve: driver.Run, stdout: os.Stdout, stderr: os.Stderr}, os.Args[1:]
	switch {
	case os.Getenv(asideEnv) != "":
		exitAside(p.run(args))
	case len(args) > 0 && args[0] == checkName:
		os.Exit(p.runAside(args))
	default:
		os.Exit(p.run(args))
	}
}
