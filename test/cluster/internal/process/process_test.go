package process

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

func TestParseStatIgnoresWhatTheNameHolds(t *testing.T) {
	line := "42 (a) (b c) R 7 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 777 1 1 1"
	want := stat{state: 'R', parent: 7, start: 777}
	if got, err := parseStat([]byte(line)); err != nil || got != want {
		t.Fatalf("parseStat = %v, %v, want %v", got, err, want)
	}
}

func TestParseStatRefusesShortLines(t *testing.T) {
	for _, line := range []string{"", "42 name R", "42 (name) R 1"} {
		if _, err := parseStat([]byte(line)); err == nil {
			t.Errorf("parseStat(%q) succeeded", line)
		}
	}
}

func TestAnotherStartTimeIsAnotherProcess(t *testing.T) {
	id, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !id.Alive() {
		t.Fatal("this process is not alive")
	}
	id.StartTime++
	if id.Alive() {
		t.Fatal("a process of another start time is alive")
	}
	if err := id.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestKillEndsTheProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), fixture.Patience())
	defer cancel()
	if err := id.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := id.Kill(ctx); err != nil {
		t.Fatalf("second kill: %v", err)
	}
}

func TestDescendantsAreFoundByProgram(t *testing.T) {
	shell := exec.Command("sh", "-c", "sleep 60 & wait")
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-shell.Process.Pid, syscall.SIGKILL)
		_ = shell.Wait()
	})
	self, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	fixture.Eventually(t, "the shell has a sleep", func() bool {
		found, err := Descendants(self, "sleep")
		fixture.Must(t, err)
		return len(found) == 1
	})
	if found, err := Descendants(self, "no-such-program"); err != nil || len(found) != 0 {
		t.Fatalf("found %v, %v, want nothing", found, err)
	}
}
