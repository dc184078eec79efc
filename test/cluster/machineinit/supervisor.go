package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
)

const (
	// restartDelay keeps a failing program from burning the machine.
	restartDelay = 500 * time.Millisecond
	// stopTimeout is how long a program may take to end after SIGTERM.
	stopTimeout = 10 * time.Second
)

// supervisor keeps the units running. It starts programs with ForkExec and
// alone waits for children, because PID 1 gets every orphan of the machine too
// and os/exec's Wait would race with that.
type supervisor struct {
	mutex sync.Mutex
	// changed is signalled when a unit's process has started or ended.
	changed *sync.Cond
	units   []*unit
}

type unit struct {
	machine.Unit
	pid    int
	starts int
	// wanted is false while the unit is stopped on request.
	wanted bool
}

func newSupervisor(specs []machine.Unit) *supervisor {
	s := &supervisor{}
	s.changed = sync.NewCond(&s.mutex)
	for _, spec := range specs {
		s.units = append(s.units, &unit{Unit: spec, wanted: true})
	}
	return s
}

func (s *supervisor) startAll() {
	for _, u := range s.units {
		go s.startWhenReady(u)
	}
}

// startWhenReady starts the unit once what it comes after exists, unless it has
// been stopped or started meanwhile.
func (s *supervisor) startWhenReady(u *unit) {
	for u.After != "" {
		if _, err := os.Stat(u.After); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if !u.wanted || u.pid != 0 {
		return
	}
	if err := u.start(); err != nil {
		log.Printf("start %s: %v", u.Name, err)
		time.AfterFunc(restartDelay, func() { s.startWhenReady(u) })
		return
	}
	s.changed.Broadcast()
}

// start needs the supervisor's lock, so that the child is known before it can
// be reaped.
func (u *unit) start() error {
	output, err := os.OpenFile(u.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = output.Close() }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	attributes := &syscall.ProcAttr{
		Dir: "/",
		// The first of two values of a variable counts (environ(7) readers stop there).
		Env:   append(slices.Clone(u.Env), os.Environ()...),
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	pid, err := syscall.ForkExec(u.Args[0], u.Args, attributes)
	if err != nil {
		return fmt.Errorf("%s: %w", u.Args[0], err)
	}
	u.pid = pid
	u.starts++
	return nil
}

// reap collects every child of PID 1 and starts ended units again. It waits
// without collecting first, so that a PID is given back to the kernel only under
// the lock: whoever holds it may signal a unit's PID.
func (s *supervisor) reap() {
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.ECHILD) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		s.collect()
	}
}

func (s *supervisor) collect() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err != nil || pid <= 0 {
		return
	}
	for _, u := range s.units {
		if u.pid == pid {
			s.ended(u, status)
		}
	}
}

// ended needs the lock.
func (s *supervisor) ended(u *unit, status syscall.WaitStatus) {
	log.Printf("%s (PID %d) ended: exit code %d, signal %d", u.Name, u.pid, status.ExitStatus(),
		status.Signal())
	u.pid = 0
	s.changed.Broadcast()
	if u.wanted {
		time.AfterFunc(restartDelay, func() { s.startWhenReady(u) })
	}
}

func (s *supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /units", s.list)
	mux.HandleFunc("POST /units/{unit}/{action}", s.act)
	return mux
}

func (s *supervisor) list(w http.ResponseWriter, _ *http.Request) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	statuses := make([]machine.UnitStatus, 0, len(s.units))
	for _, u := range s.units {
		statuses = append(statuses,
			machine.UnitStatus{Name: u.Name, PID: u.pid, Starts: u.starts, Stopped: !u.wanted})
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(statuses); err != nil {
		log.Printf("answer: %v", err)
	}
}

func (s *supervisor) act(w http.ResponseWriter, r *http.Request) {
	u := s.find(r.PathValue("unit"))
	if u == nil {
		http.Error(w, "no such unit: "+r.PathValue("unit"), http.StatusNotFound)
		return
	}
	switch action := machine.Action(r.PathValue("action")); action {
	case machine.Start:
		s.start(u)
	case machine.Stop:
		s.stop(u)
	case machine.Restart:
		s.stop(u)
		s.start(u)
	case machine.Kill:
		s.kill(u)
	default:
		http.Error(w, "no such action: "+string(action), http.StatusNotFound)
	}
}

func (s *supervisor) find(name string) *unit {
	for _, u := range s.units {
		if u.Name == name {
			return u
		}
	}
	return nil
}

func (s *supervisor) start(u *unit) {
	s.mutex.Lock()
	u.wanted = true
	s.mutex.Unlock()
	s.startWhenReady(u)
}

func (s *supervisor) stop(u *unit) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	u.wanted = false
	pid := u.pid
	if pid == 0 {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	force := time.AfterFunc(stopTimeout, func() { s.forceEnd(u, pid) })
	defer force.Stop()
	for u.pid == pid {
		s.changed.Wait()
	}
}

func (s *supervisor) forceEnd(u *unit, pid int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if u.pid == pid {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// kill returns when the program has ended; it starts again by itself.
func (s *supervisor) kill(u *unit) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	pid := u.pid
	if pid == 0 {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for u.pid == pid {
		s.changed.Wait()
	}
}
