package process

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestParseStatIgnoresWhatTheNameHolds(t *testing.T) {
	line := "42 (a) (b c) R 1 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 777 1 1 1"
	state, start, err := parseStat([]byte(line))
	if err != nil || state != 'R' || start != 777 {
		t.Fatalf("parseStat = %c, %d, %v, want R, 777, nil", state, start, err)
	}
}

func TestParseStatRefusesShortLines(t *testing.T) {
	for _, line := range []string{"", "42 name R", "42 (name) R 1"} {
		if _, _, err := parseStat([]byte(line)); err == nil {
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
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := id.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := id.Kill(ctx); err != nil {
		t.Fatalf("second kill: %v", err)
	}
}
