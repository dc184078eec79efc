// Command csi-hostpath-controller is the controller of a cluster: the router that the sidecars
// call, the links of the nodes, and what follows the life of nodes and claims.
package main

import (
	"os"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
)

func main() { os.Exit(command.Run(rootCommand(), os.Args[1:], os.Stdout, os.Stderr)) }
