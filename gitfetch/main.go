// csi-hostpath-git fetches git repositories for the driver. It runs in a container of its own:
// unprivileged, without capabilities, without directories of the node, without a token. Each
// request has a process of its own, whose memory, time and files the kernel bounds: a server that
// sends a malicious pack ends that process only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitwire"
)

const (
	// exitFailed is the exit code of a process that has logged what went wrong.
	exitFailed = 1
	// exitAbandoned is the exit code of a process whose request did not end in time.
	exitAbandoned = 3
)

// fetchCommand is the argument of the process for one request. The connection is its descriptor 3.
const fetchCommand = "fetch"

func main() {
	o := options{program: "/proc/self/exe"}
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
	err := o.validate()
	switch {
	case err != nil:
	case child:
		err = fetchOne(ctx, o)
	default:
		err = serve(ctx, o, args)
	}
	stop()
	klog.Flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, "csi-hostpath-git:", err)
		os.Exit(exitFailed)
	}
}

type options struct {
	socket string
	cache  string
	// cacheBytes bounds the cache: a half is for what is kept, a half for the fetches that run.
	cacheBytes int64
	memory     int64
	jobs       int
	refused    networks
	// program serves one request: this program.
	program string
	// abandon ends the process. It is called a little after a request should have ended.
	abandon func()
}

// packBytes is the most that one fetch may write.
func (o *options) packBytes() int64 { return o.cacheBytes / 2 / int64(o.jobs) }

// keptBytes is the most that stays in the cache between fetches.
func (o *options) keptBytes() int64 { return o.cacheBytes / 2 }

// childMemory is what the process of one request may use; the rest is for the parent.
func (o *options) childMemory() int64 { return o.memory / 8 * 7 / int64(o.jobs) }

// heap is what garbage is collected for (GOMEMLIMIT). Go maps its heap in arenas of 64 MiB, each of
// which counts for RLIMIT_DATA from the start, beside about 13 MiB of other memory.
func (o *options) heap() int64 {
	const arena, others = 64 << 20, 16 << 20
	return (o.childMemory() - others) / arena * arena / 8 * 7
}

func (o *options) validate() error {
	// The runtime of Go maps 77 MiB before it runs a program.
	const leastMemory, leastCache = 112 << 20, 16 << 20
	switch {
	case o.jobs < 1:
		return fmt.Errorf("--jobs is %d: want at least 1", o.jobs)
	case o.childMemory() < leastMemory:
		return fmt.Errorf("--memory is %d: want at least %d for %d jobs", o.memory,
			leastMemory/7*8*int64(o.jobs), o.jobs)
	case o.packBytes() < leastCache:
		return fmt.Errorf("--cache-bytes is %d: want at least %d for %d jobs", o.cacheBytes,
			2*leastCache*int64(o.jobs), o.jobs)
	}
	return nil
}

func (o *options) register(flags *flag.FlagSet) {
	flags.StringVar(&o.socket, "socket", "/run/csi-hostpath-git/fetch.sock",
		"the unix socket to which the driver connects")
	flags.StringVar(&o.cache, "cache", "/var/cache/csi-hostpath-git",
		"directory for the objects of repositories; it may be emptied at any time")
	flags.Int64Var(&o.cacheBytes, "cache-bytes", 4<<30,
		"bytes of the cache: a half for what is kept, a half for the fetches that run")
	flags.Int64Var(&o.memory, "memory", 768<<20,
		"bytes of memory for all processes; those of requests share seven eighths of it")
	flags.IntVar(&o.jobs, "jobs", gitwire.Jobs,
		"how many requests are served at the same time; others wait")
	flags.Var(&o.refused, "refused-addresses", "addresses and networks, with commas, that are not "+
		"dialled unless a rule names them: the node's, the pod's, the API server's")
}

// announcedConn tells the parent that an answer has begun.
type announcedConn struct {
	net.Conn
	to *os.File
}

func (c *announcedConn) Write(b []byte) (int, error) {
	if c.to != nil {
		_, err := c.to.Write([]byte{1})
		if err = errors.Join(err, c.to.Close()); err != nil {
			return 0, err
		}
		c.to = nil
	}
	return c.Conn.Write(b)
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
	o.abandon = func() { os.Exit(exitAbandoned) }
	return handle(ctx, &announcedConn{Conn: conn, to: os.NewFile(4, "began")}, o)
}
