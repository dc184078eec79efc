// Conformance runs Kubernetes' own tests of storage drivers against the installed chart, on a real
// Kubernetes on this machine (test/cluster): go run ./test/conformance --help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
)

type options struct {
	name, disk, kubernetes string
	drivers, focus         string
	helm, image, reports   string
	procs                  int
	keep                   bool
}

func main() {
	var o options
	flag.StringVar(&o.name, "name", "conformance", "name of the cluster")
	flag.StringVar(&o.disk, "disk", "btrfs", "filesystem of the nodes' disks: btrfs, xfs or ext4")
	flag.StringVar(&o.kubernetes, "kubernetes", "", "version of Kubernetes, as test/cluster has it")
	flag.StringVar(&o.drivers, "drivers", strings.Join(kinds(), ","),
		"kinds of volumes, separated by commas")
	flag.StringVar(&o.focus, "focus", "", "run only the specs whose names match this expression")
	flag.StringVar(&o.helm, "helm", "helm", "path of the helm program")
	flag.StringVar(&o.image, "image", "", "archive of the driver's image; default: built")
	flag.StringVar(&o.reports, "reports", ".cache/conformance", "directory for reports and logs")
	flag.IntVar(&o.procs, "procs", 4, "how many specs run at the same time")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster up")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	chosen, err := choose(o.drivers)
	if err != nil {
		return err
	}
	suite, err := cluster.BuildSuite(ctx, "", progress())
	if err != nil {
		return err
	}
	in, err := setUp(ctx, o, suite)
	if in != nil && !o.keep {
		defer func() { err = errors.Join(err, in.down(context.WithoutCancel(ctx))) }()
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, k := range chosen {
		errs = append(errs, runKind(ctx, o, suite, in, k))
	}
	err = errors.Join(errs...)
	if err != nil {
		logs := filepath.Join(o.reports, "logs")
		err = errors.Join(err, cluster.CollectLogs(context.WithoutCancel(ctx), o.name, logs))
	}
	return err
}

// runKind runs the suite on one kind of volumes, and judges its report.
func runKind(
	ctx context.Context, o options, suite cluster.Suite, in *installation, k kind,
) error {
	folder, err := filepath.Abs(filepath.Join(o.reports, o.disk+"-"+k.name))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	driver, err := filepath.Abs(filepath.Join("test/conformance/drivers", k.name+".yaml"))
	if err != nil {
		return err
	}
	report := filepath.Join(folder, "report.json")
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	args := []string{
		"--procs=" + strconv.Itoa(o.procs), "--timeout=6h", "--poll-progress-after=0", "--no-color",
		"--json-report=report.json", "--output-dir=" + folder, "--keep-going",
		"--label-filter=!Disruptive && !Flaky",
		"--focus=External.Storage.*" + k.focus + ".*" + o.focus,
	}
	if !canGrowExt4() {
		k = k.withoutGrowth()
	}
	if k.skip != "" {
		args = append(args, "--skip="+k.skip)
	}
	args = append(args, suite.Tests, "--",
		"--kubeconfig="+in.cluster.Kubeconfig(), "--provider=skeleton",
		"--storage.testdriver="+driver)
	cmd := exec.CommandContext(ctx, suite.Ginkgo, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, folder
	fmt.Printf("%s on %s: log in %s\n", k.name, o.disk, log.Name())
	failed := cmd.Run() // says only that a spec failed, which the report says better
	r, err := read(report)
	if err != nil {
		return errors.Join(fmt.Errorf("%s on %s: %w", k.name, o.disk, err), failed)
	}
	fmt.Print(r.table(o.disk, k.name))
	return r.judge(k.name)
}

// progress prints a step with the time since the program began.
func progress() func(format string, args ...any) {
	began := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
}
