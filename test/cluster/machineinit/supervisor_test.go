package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// shared is the process's only supervisor: its reaper takes every child of the
// process and never ends, as in PID 1.
var shared = sync.OnceValue(func() *supervisor {
	s := newSupervisor(nil)
	go s.reap()
	return s
})

// startSupervisor lets the supervisor run one unit until the test ends.
func startSupervisor(t *testing.T, spec machine.Unit) *supervisor {
	t.Helper()
	s := shared()
	u := &unit{Unit: spec, wanted: true}
	s.mutex.Lock()
	s.units = []*unit{u}
	s.mutex.Unlock()
	s.startAll()
	t.Cleanup(func() { s.stop(u) })
	return s
}

func act(t *testing.T, s *supervisor, path string) int {
	t.Helper()
	recorder := httptest.NewRecorder()
	s.handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, path, nil))
	return recorder.Code
}

func status(t *testing.T, s *supervisor) machine.UnitStatus {
	t.Helper()
	recorder := httptest.NewRecorder()
	s.handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/units", nil))
	var all []machine.UnitStatus
	if err := json.Unmarshal(recorder.Body.Bytes(), &all); err != nil || len(all) != 1 {
		t.Fatalf("units %v, %v, want one", all, err)
	}
	return all[0]
}

func waitStatus(t *testing.T, s *supervisor, what string, holds func(machine.UnitStatus) bool) {
	t.Helper()
	fixture.Eventually(t, "the unit is "+what, func() bool { return holds(status(t, s)) },
		func() any { return status(t, s) })
}

func TestUnitIsKeptRunningUntilItIsStopped(t *testing.T) {
	folder := t.TempDir()
	after := filepath.Join(folder, "after")
	s := startSupervisor(t, machine.Unit{
		Name: "unit", Args: []string{"/bin/sh", "-c", "echo $GREETING; exec sleep 600"},
		Env: []string{"GREETING=hello"}, After: after, Log: filepath.Join(folder, "log"),
	})
	if got := status(t, s); got.PID != 0 {
		t.Fatalf("started before what it comes after: %+v", got)
	}
	if err := os.WriteFile(after, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	running := func(starts int) func(machine.UnitStatus) bool {
		return func(u machine.UnitStatus) bool { return u.PID != 0 && u.Starts == starts }
	}
	waitStatus(t, s, "started once", running(1))
	waitLog(t, filepath.Join(folder, "log"), "hello\n")
	if code := act(t, s, "/units/unit/kill"); code != http.StatusOK {
		t.Fatalf("kill: %d", code)
	}
	waitStatus(t, s, "started again by itself", running(2))
	if code := act(t, s, "/units/unit/restart"); code != http.StatusOK {
		t.Fatalf("restart: %d", code)
	}
	waitStatus(t, s, "restarted", running(3))
	if code := act(t, s, "/units/unit/stop"); code != http.StatusOK {
		t.Fatalf("stop: %d", code)
	}
	time.Sleep(2 * restartDelay) // no poll: nothing is to happen in that time
	if got := status(t, s); got.PID != 0 || !got.Stopped {
		t.Fatalf("a stopped unit is %+v", got)
	}
	if code := act(t, s, "/units/unit/start"); code != http.StatusOK {
		t.Fatalf("start: %d", code)
	}
	waitStatus(t, s, "started on request", running(4))
	for _, path := range []string{"/units/other/stop", "/units/unit/dance"} {
		if code := act(t, s, path); code != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
}

// waitLog returns when the log holds what the unit says from its environment.
func waitLog(t *testing.T, path, want string) {
	t.Helper()
	var log []byte
	fixture.Eventually(t, "the log has "+want, func() bool {
		log, _ = os.ReadFile(path) // absent at first
		return string(log) == want
	}, func() any { return string(log) })
}
