// Command kubectl-hostpath is the plugin of kubectl: `kubectl hostpath`. Everything is pkg/plugin.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return plugin.Run(ctx, os.Args[1:], plugin.Streams{Out: os.Stdout, Err: os.Stderr})
}
