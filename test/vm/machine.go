package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

const (
	defaultTimeout = 5 * time.Minute
	defaultMemory  = 1 << 30
	// bootTimeout bounds the time until the disks are mounted: seconds, or minutes beside others.
	bootTimeout = 10 * time.Minute
	// dumpTime is what remains of a boot's timeout beside a test binary's own, to print the
	// goroutines of one that hangs.
	dumpTime = time.Minute

	driver = "./cmd/csi-hostpath"
)

// Machine is what boots: a kernel, the tests, and disks that outlive each boot.
type Machine struct {
	config  Config
	dir     string
	kernel  kernel
	payload payload
	initrd  string
	disks   []attached
	boots   int
}

// Boot runs the tests once, and returns what became of those packages that ran. The error is about
// the machine, or about a power cut that nobody asked for: failed tests are none.
func (m *Machine) Boot(ctx context.Context, boot Boot, logf Logf) ([]Result, error) {
	if boot.Timeout == 0 {
		boot.Timeout = defaultTimeout
	}
	m.boots++
	dir := filepath.Join(m.dir, fmt.Sprintf("boot-%d", m.boots))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	work := filepath.Join(dir, "work.img")
	if err := errors.Join(m.writeJob(boot), makeWorkDisk(ctx, m.payload.dir, work)); err != nil {
		return nil, err
	}
	results, err := m.run(ctx, boot, dir, work, logf)
	return results, errors.Join(err, os.Remove(work)) // it is large, and a machine may boot often
}

// run keeps the console's output in dir.
func (m *Machine) run(
	ctx context.Context, boot Boot, dir, work string, logf Logf,
) ([]Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	expire := func(after time.Duration) *time.Timer {
		return time.AfterFunc(after, func() {
			cancel(fmt.Errorf("the machine has not ended within %s: %w", after, context.DeadlineExceeded))
		})
	}
	timer := expire(bootTimeout)
	console := filepath.Join(dir, "console")
	w := newWatch(m.binaries(boot), boot, logf)
	w.ready = func(slowness float64) {
		timer.Stop()
		timer = expire(job.Scaled(boot.Timeout, slowness))
	}
	err := runQEMU(ctx, m.arguments(work, console), w)
	timer.Stop()
	results, resultsErr := w.results(context.WithoutCancel(ctx))
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("%w\nits console:\n%s", err, tail(console))
	}
	return results, errors.Join(err, resultsErr)
}

// binaries are what a boot runs, in order: the tests, or its command.
func (m *Machine) binaries(boot Boot) []binary {
	if len(boot.Command) > 0 {
		return []binary{{name: boot.Command[0], file: boot.Command[0], dir: "tmp"}}
	}
	return m.payload.tests
}

// writeJob tells the guest what to do in this boot.
func (m *Machine) writeJob(boot Boot) error {
	j := job.Job{Programs: m.programs(boot)}
	for _, d := range m.disks {
		j.Disks = append(j.Disks, d.Disk)
	}
	if len(j.Programs) == 0 {
		return errors.New("nothing to run: neither packages nor a command")
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.payload.dir, job.FileName), text, 0o644)
}

func (m *Machine) programs(boot Boot) []job.Program {
	args, env := programArguments(boot), boot.Env
	if slices.Contains(m.config.Programs, driver) {
		env = append(
			[]string{job.DriverEnv + "=" + path.Join(job.WorkDir, "bin", path.Base(driver))},
			env...)
	}
	var timeout time.Duration
	if len(boot.Command) == 0 {
		timeout = max(boot.Timeout-dumpTime, time.Second)
	}
	var programs []job.Program
	for _, b := range m.binaries(boot) {
		programs = append(programs, job.Program{
			Path: path.Join(job.WorkDir, "bin", b.file),
			Dir:  path.Join(job.WorkDir, b.dir),
			Args: args,
			Env:  env,

			TestTimeout: timeout,
		})
	}
	return programs
}

func programArguments(boot Boot) []string {
	if len(boot.Command) > 0 {
		return boot.Command[1:]
	}
	args := []string{
		"-test.v=test2json",
		"-test.paniconexit0",
	}
	if boot.Run != "" {
		args = append(args, "-test.run="+boot.Run)
	}
	return append(args, boot.Flags...)
}
