// csi-hostpath-git fetches git repositories for the driver. It runs in a container of its own:
// unprivileged, without capabilities, without directories of the node, without a token. Each
// request has a process of its own, whose memory, time and files the kernel bounds: a server that
// sends a malicious pack ends that process only.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"
)

// fetchCommand is the argument of the process for one request. The connection is its descriptor 3.
const fetchCommand = "fetch"

func main() {
	var o options
	flags := flag.NewFlagSet("csi-hostpath-git", flag.ExitOnError)
	klog.InitFlags(flags)
	o.register(flags)
	args := os.Args[1:]
	child := len(args) > 0 && args[0] == fetchCommand
	if child {
		args = args[1:]
	}
	_ = flags.Parse(args) // ExitOnError
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	var err error
	if child {
		err = fetchOne(ctx, o)
	} else {
		err = serve(ctx, o, args)
	}
	stop()
	klog.Flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, "csi-hostpath-git:", err)
		os.Exit(1)
	}
}

type options struct {
	socket string
	cache  string
	memory int64
	jobs   int
}

func (o *options) register(flags *flag.FlagSet) {
	flags.StringVar(&o.socket, "socket", "/run/csi-hostpath-git/fetch.sock",
		"the unix socket to which the driver connects")
	flags.StringVar(&o.cache, "cache", "/var/cache/csi-hostpath-git",
		"directory for the objects of repositories; it may be emptied at any time")
	flags.Int64Var(&o.memory, "memory-per-fetch", 256<<20,
		"bytes of memory that the process of one request may use")
	flags.IntVar(&o.jobs, "jobs", 4, "how many requests are served at the same time; others wait")
}

// fetchOne serves the request of the connection that the parent has passed.
func fetchOne(ctx context.Context, o options) error {
	file := os.NewFile(3, "connection")
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("descriptor 3: %w", err)
	}
	_ = file.Close() // conn has a duplicate
	defer conn.Close()
	return handle(ctx, conn, o.cache)
}
