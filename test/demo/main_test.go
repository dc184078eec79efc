package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// The environment that turns this test binary into the demo: what happens to it, and at which step.
const (
	envBlow = "CSI_HOSTPATH_DEMO_BLOW"
	envStep = "CSI_HOSTPATH_DEMO_STEP"
)

func TestMain(m *testing.M) {
	if blow := os.Getenv(envBlow); blow != "" {
		os.Exit(run(&blower{blow: blow, step: os.Getenv(envStep)}, os.Stderr))
	}
	os.Exit(m.Run())
}

// blower is standard output that interrupts the program when a step has been shown.
type blower struct{ blow, step string }

var signals = map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM}

func (b *blower) Write(text []byte) (int, error) {
	if strings.Contains(string(text), b.step) {
		if b.blow == "panic" {
			panic("as the test wants it")
		}
		if err := syscall.Kill(os.Getpid(), signals[b.blow]); err != nil {
			return 0, err
		}
		// No poll: the program alone sees the signal. Too early, the program only goes a step further.
		time.Sleep(100 * time.Millisecond)
	}
	return os.Stdout.Write(text)
}

func TestDemoSucceedsAndLeavesNothing(t *testing.T) {
	disks.RequireRoot(t)
	tmp := tempDir(t)
	t.Setenv("TMPDIR", tmp)
	var out, complaints bytes.Buffer
	if code := run(&out, &complaints); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out.String(), complaints.String())
	}
	for _, want := range []string{`"written in pod A"`, "FailedPrecondition", "a file mounted at", "0 mounts"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
	checkNothingLeft(t, tmp)
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	disks.RequireRoot(t)
	tests := []struct {
		name, blow, step string
		exitCode         int
	}{
		{
			name:     "SIGINT with both pods published",
			blow:     "SIGINT",
			step:     "pod A writes hello.txt",
			exitCode: exitInterrupted,
		},
		{
			name:     "SIGTERM with no driver there",
			blow:     "SIGTERM",
			step:     "kill -9 the driver",
			exitCode: exitInterrupted,
		},
		{
			name:     "SIGTERM with a file published",
			blow:     "SIGTERM",
			step:     "pod A reads it",
			exitCode: exitInterrupted,
		},
		{name: "panic with both pods published", blow: "panic", step: "pod B reads it", exitCode: 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			tmp := tempDir(t)
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp, envBlow+"="+test.blow, envStep+"="+test.step)
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != test.exitCode {
				t.Errorf("exit code %d (%v), want %d\n%s", code, err, test.exitCode, out)
			}
			checkNothingLeft(t, tmp)
		})
	}
}

// tempDir is t.TempDir with a short name: the path of a socket has room for 107 bytes.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo-") //nolint:usetesting // that is the point
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// checkNothingLeft looks for files, mounts and drivers. Go's own caches are not in a TMPDIR.
func checkNothingLeft(t *testing.T, tmp string) {
	t.Helper()
	entries, err := os.ReadDir(tmp)
	if err != nil || len(entries) > 0 {
		t.Errorf("left in the temporary directory: %v (%v)", entries, err)
	}
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range table {
		if strings.HasPrefix(m.Point, tmp+"/") {
			t.Errorf("left mounted: %s", m.Point)
		}
	}
	// The driver runs from a binary in the temporary directory.
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range programs {
		if program, err := os.Readlink(link); err == nil && strings.HasPrefix(program, tmp+"/") {
			t.Errorf("still running: %s (%s)", program, link)
		}
	}
}
