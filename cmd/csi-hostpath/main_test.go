package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/version"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// behaviourEnv names the environment variable that makes the test binary the program, with a driver
// of the given behaviour.
const behaviourEnv = "CSI_HOSTPATH_TEST_DRIVER"

func TestMain(m *testing.M) {
	if behaviour := os.Getenv(behaviourEnv); behaviour != "" {
		p := program{serve: behave(behaviour), stdout: os.Stdout, stderr: os.Stderr}
		os.Exit(p.run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func behave(behaviour string) func(context.Context, config.Config) error {
	return func(ctx context.Context, _ config.Config) error {
		klog.FromContext(ctx).Info("Serving")
		<-ctx.Done()
		switch behaviour {
		case "drain":
			return nil
		case "fail":
			return errors.New("a call was cut off")
		default: // hang
			klog.FromContext(ctx).Info("Draining")
			select {}
		}
	}
}

// call runs the program in this process, with a driver that fails with err.
func call(err error, args ...string) (code int, stdout, stderr string) {
	defer klog.CaptureState().Restore() // the flags of the log belong to the process
	var out, errs bytes.Buffer
	p := program{
		serve:  func(context.Context, config.Config) error { return err },
		stdout: &out, stderr: &errs,
	}
	return p.run(args), out.String(), errs.String()
}

func TestExitCodesAndMessages(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("NODE_NAME", "node-1")
	write(
		t,
		"good.yaml",
		"apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\npools:\n- name: fast\n  path: /data/fast\n",
	)
	write(
		t,
		"bad.yaml",
		"apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\npools:\n- name: fast\n  path: fast\n  siez: 1\n",
	)
	const notAbsolute = "csi-hostpath: bad.yaml:5: pools[0].path: \"fast\" must be an absolute path\n"
	const unknownKey = "csi-hostpath: bad.yaml:6: pools[0]: unknown key \"siez\": known are name, path, default, optional, " +
		"allowMultiNode, overcommit, reserve, quota, requireMountpoint, trashRetention, maxCopies, copyBytesPerSecond, " +
		"maxSnapshotsPerVolume\n"
	for _, c := range []struct {
		args   string
		driver error
		code   int
		stdout string
		stderr string
	}{
		{args: "--version", stdout: version.Version + "\n"},
		{args: "serve --version", stdout: version.Version + "\n"},
		{args: "serve --pool a=/data/a"},
		{args: "serve --config good.yaml -v=0 --vmodule="},
		{
			args: "serve --pool a=/data/a", driver: errors.Join(errors.New("one"), errors.New("two")), code: 1,
			stderr: "csi-hostpath: one\ncsi-hostpath: two\n",
		},
		{
			args: "", code: 2,
			stderr: "csi-hostpath: give a command: serve, check, check-config, repair, recharge, undelete, or --help\n",
		},
		{args: "server", code: 2, stderr: "csi-hostpath: unknown command \"server\" for \"csi-hostpath\"\n"},
		{args: "serve now", code: 2, stderr: "csi-hostpath: serve takes no arguments, only flags: [\"now\"]\n"},
		{
			args: "serve --sidecar-group=4294967296", code: 2,
			stderr: "csi-hostpath: --sidecar-group: \"4294967296\" must be a whole number of 1 to 4294967294\n",
		},
		{
			args: "serve --shutdown-grace=5", code: 2,
			stderr: "csi-hostpath: --shutdown-grace: \"5\" must be a duration with a unit, such as 90s or 2m\n",
		},
		{args: "serve -v=high", code: 2, stderr: "csi-hostpath: --v: \"high\" must be a whole number of 0 to 2147483647\n"},
		{args: "serve -v=-3", code: 2, stderr: "csi-hostpath: --v: -3 must be 0 or more\n"},
		{args: "serve --no-such", code: 2, stderr: "csi-hostpath: unknown flag: --no-such\n"},
		{
			args: "serve --pool a=/data/a --logging-format=xml", code: 2,
			stderr: "csi-hostpath: --logging-format: \"xml\" must be text or json\n",
		},
		{
			args: "serve --config bad.yaml --endpoint=tcp://:1", code: 2,
			stderr: "csi-hostpath: --endpoint: \"tcp://:1\" must be unix:///absolute/path\n" +
				notAbsolute + unknownKey,
		},
		{
			args: "check-config --config bad.yaml", code: 2,
			stderr: notAbsolute + unknownKey,
		},
		{
			args: "check-config --config good.yaml --shutdown-grace=5s",
			stdout: "The configuration is valid: hostpath.csi.local on node node-1, 1 pools.\n" +
				"pool fast, the default: /data/fast, overcommit 1, reserve 0 bytes, quota preferred, optional false, " +
				"requireMountpoint false, allowMultiNode false, trashRetention 0s, maxCopies 2, copyBytesPerSecond 0, " +
				"maxSnapshotsPerVolume 0\n",
		},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, stdout, stderr := call(c.driver, strings.Fields(c.args)...)
			if code != c.code || stdout != c.stdout || stderr != c.stderr {
				t.Errorf("exit %d, stdout:\n%sstderr:\n%swant exit %d, stdout:\n%sstderr:\n%s",
					code, stdout, stderr, c.code, c.stdout, c.stderr)
			}
		})
	}
}

func TestAWrongValueOfAFlagIsToldWithTheRightOnes(t *testing.T) {
	for _, name := range []string{"serve", "check-config"} {
		subcommand(t, name).Flags().VisitAll(func(f *pflag.Flag) {
			if kind := f.Value.Type(); kind == "string" || kind == "stringArray" {
				return // this flag takes any text, which the configuration checks
			}
			code, _, stderr := call(nil, name, "--"+f.Name+"=?")
			want := fmt.Sprintf("csi-hostpath: --%s: \"?\" must be ", f.Name)
			if code != command.ExitUsage || !strings.HasPrefix(stderr, want) ||
				strings.HasSuffix(stderr, " must be \n") {
				t.Errorf("exit %d: %swant %s…", code, stderr, want)
			}
		})
	}
}

func TestServeGetsTheConfiguration(t *testing.T) {
	t.Setenv("NODE_NAME", "node-1")
	var got config.Config
	p := program{
		serve:  func(_ context.Context, c config.Config) error { got = c; return nil },
		stdout: new(bytes.Buffer), stderr: new(bytes.Buffer),
	}
	if code := p.run(
		[]string{"serve", "--pool=a=/data/a", "--shutdown-grace=3s", "--metrics-address=:9"},
	); code != command.ExitOK {
		t.Fatalf("exit %d: %s", code, p.stderr)
	}
	if got.NodeName != "node-1" || got.ShutdownGrace != 3*time.Second || got.MetricsAddress != ":9" ||
		got.DefaultPool() != "a" {
		t.Errorf("got %+v", got)
	}
}

func TestSignalsDrainThenExit(t *testing.T) {
	for _, c := range []struct {
		name    string
		driver  string
		signals []syscall.Signal
		code    int
		last    string // the last line of the process's output
	}{
		{"SIGTERM drains", "drain", []syscall.Signal{syscall.SIGTERM}, command.ExitOK, "Stopping"},
		{"SIGINT drains", "drain", []syscall.Signal{syscall.SIGINT}, command.ExitOK, "Stopping"},
		{
			"a failed drain is a failure", "fail",
			[]syscall.Signal{syscall.SIGTERM},
			command.ExitFailure, "csi-hostpath: a call was cut off",
		},
		{
			"a second signal exits at once", "hang",
			[]syscall.Signal{syscall.SIGTERM, syscall.SIGTERM},
			command.ExitFailure, "Exiting at once",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"serve", "--pool=a=/data/a", "--node-name=n"}
			cmd := exec.Command(os.Args[0], args...) //nolint:gosec // this very program
			cmd.Env = append(os.Environ(), behaviourEnv+"="+c.driver)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			timeout := time.AfterFunc(fixture.Patience(), func() { _ = cmd.Process.Kill() })
			defer timeout.Stop()
			last := signalInTurn(t, cmd.Process, bufio.NewScanner(stderr), c.signals)
			_ = cmd.Wait() // the exit code is checked below
			if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(last, c.last) {
				t.Errorf("exit %d after %q, want %d after %q", code, last, c.code, c.last)
			}
		})
	}
}

// signalInTurn sends the first signal when the driver serves, and the second when the driver
// drains. It returns the last line.
func signalInTurn(
	t *testing.T, process *os.Process, stderr *bufio.Scanner, signals []syscall.Signal,
) (last string) {
	t.Helper()
	for stderr.Scan() {
		last = stderr.Text()
		if !strings.Contains(last, `"Serving"`) && !strings.Contains(last, `"Draining"`) {
			continue
		}
		if len(signals) == 0 {
			t.Errorf("no signal is left at %q", last)
			return last
		}
		if err := process.Signal(signals[0]); err != nil {
			t.Error(err)
		}
		signals = signals[1:]
	}
	return last
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Clean(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
