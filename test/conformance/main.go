// Conformance runs Kubernetes' own tests of storage drivers against the installed chart, on a real
// Kubernetes on this machine (test/cluster): go run ./test/conformance --help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/cluster"
	"github.com/csi-hostpath/csi-hostpath/test/conformance/suite"
)

type options struct {
	name, kubernetes     string
	kinds, focus         string
	helm, image, reports string
	procs                int
	keep                 bool
}

func main() {
	var o options
	flag.StringVar(&o.name, "name", "conformance", "name of the cluster")
	flag.StringVar(&o.kubernetes, "kubernetes", "", "version of Kubernetes, as test/cluster has it")
	flag.StringVar(&o.kinds, "kinds", strings.Join(suite.Names(), ","),
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
	chosen, err := suite.Choose(o.kinds)
	if err != nil {
		return err
	}
	programs, err := cluster.BuildSuite(ctx, o.kubernetes, "", progress())
	if err != nil {
		return err
	}
	c, err := setUp(ctx, o)
	if c != nil && !o.keep {
		defer func() {
			err = errors.Join(err, cluster.Down(context.WithoutCancel(ctx), o.name, progress()))
		}()
	}
	if err != nil {
		return err
	}
	r := suite.Run{Suite: programs, Cluster: c, Reports: o.reports, Focus: o.focus, Procs: o.procs}
	if err := r.Prepare(ctx); err != nil {
		return err
	}
	if err = runKinds(ctx, r, chosen); err != nil {
		logs := filepath.Join(o.reports, "logs")
		err = errors.Join(err, cluster.CollectLogs(context.WithoutCancel(ctx), o.name, logs))
	}
	return err
}

func runKinds(ctx context.Context, r suite.Run, kinds []suite.Kind) error {
	fmt.Printf("Kubernetes %s: reports and logs are in %s\n", r.Suite.Version, r.Reports)
	var errs []error
	for _, k := range kinds {
		if ctx.Err() != nil {
			return errors.Join(append(errs, ctx.Err())...)
		}
		result, err := r.Kind(ctx, k)
		fmt.Print(result.Table(k.Name))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// progress prints a step with the time since the program began.
func progress() func(format string, args ...any) {
	began := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
}
