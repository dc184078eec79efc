// Machineinit is PID 1 of a machine of the test cluster: it makes the machine's
// mounts, keeps its programs running, reaps orphans, and answers on a socket.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/cgroup"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
)

// The descriptors that the starter passes on.
const (
	releaseFD  = 3
	listenerFD = 4
)

func main() {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	if err := run(); err != nil {
		log.Fatalf("machineinit: %v", err)
	}
}

func run() error {
	if len(os.Args) != 2 || os.Getpid() != 1 {
		return errors.New(
			"usage: machineinit SPEC, as PID 1 of new namespaces: it is started by `cluster up`",
		)
	}
	spec, err := machine.ReadSpec(os.Args[1])
	if err != nil {
		return err
	}
	if err := awaitRelease(); err != nil {
		return err
	}
	if err := cgroup.Join(spec.CGroup); err != nil {
		return err
	}
	if err := makeMounts(spec); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	return serve(spec)
}

// awaitRelease returns an error when the starter died before it released us:
// nobody knows of this machine then.
func awaitRelease() error {
	pipe := os.NewFile(releaseFD, "release")
	defer func() { _ = pipe.Close() }()
	if _, err := io.ReadFull(pipe, make([]byte, 1)); err != nil {
		return fmt.Errorf("the starter ended before it released this machine: %w", err)
	}
	return nil
}

func serve(spec machine.Spec) error {
	listener, err := net.Listen("unix", machine.InitSocket)
	if err != nil {
		return err
	}
	if spec.Forward != "" {
		if err := startForward(spec.Forward); err != nil {
			return err
		}
	}
	supervisor := newSupervisor(spec.Units)
	// From here on every child is one of the supervisor's: it alone waits.
	go supervisor.reap()
	supervisor.startAll()
	server := &http.Server{Handler: supervisor.handler(), ReadHeaderTimeout: time.Minute}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Printf("serve %s: %v", machine.InitSocket, err)
		}
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	// The kernel ends all other processes of the namespace with us.
	return server.Close()
}
