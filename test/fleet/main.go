// Command fleet measures the central deployment with many nodes: real links, real Controller
// services over small pools, a real kube-apiserver, csi-provisioner and csi-hostpath-controller.
// `make fleet` runs it; `make fleet FLEET_FLAGS='--run crash'` runs a part.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// options say what to measure.
type options struct {
	parent string
	only   string
	json   string
	keep   string
	rounds int
	// nodes are those of the cluster, and linked those of the measurement without claims. volumes are
	// those of the linked nodes together.
	nodes, linked, volumes int
	// calls is how many calls a median is taken of.
	calls int
	// idle is how long nothing is done. kills is the time between two of the controller's deaths, cut
	// how long a node has no network, and burst how many claims are made meanwhile.
	idle, kills, cut time.Duration
	burst            int
}

// measurements are in the order of their weight.
var measurements = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"call", (*bench).callsThroughRouter},
	{"idle", (*bench).idleCluster},
	{"claims", (*bench).claimsUntilBound},
	{"sources", (*bench).triesOfSources},
	{"life", (*bench).writesOfLife},
	{"crash", (*bench).crashes},
	{"links", (*bench).manyLinks},
}

// bench is one run.
type bench struct {
	options

	controller string // its binary
	report     *report.Report
	progress   func(format string, args ...any)
}

func names() string {
	var all []string
	for _, m := range measurements {
		all = append(all, m.name)
	}
	return strings.Join(all, ", ")
}

func main() {
	silence()
	o, err := parse(os.Args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return
	}
	if err == nil {
		began := time.Now()
		err = measure(o, os.Stdout, func(format string, args ...any) {
			fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
		})
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "fleet: %v\n", err)
		os.Exit(1)
	}
}

// silence discards what nodes log: it is about links that are cut on purpose.
func silence() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) }

func parse(args []string) (options, error) {
	var o options
	flags := pflag.NewFlagSet("fleet", pflag.ContinueOnError)
	flags.StringVar(&o.parent, "dir", os.TempDir(),
		"where a directory is made for everything, and removed again")
	flags.StringVar(&o.only, "run", "", "regular expression: which of "+names()+" (all)")
	flags.StringVar(&o.json, "json", "", "a file that gets the report as JSON")
	flags.StringVar(&o.keep, "logs", "", "a directory that gets the programs' logs")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each measurement is made")
	flags.IntVar(&o.nodes, "nodes", 1000, "how many nodes the cluster has")
	flags.IntVar(&o.linked, "linked", 5000, "how many nodes are linked, without claims")
	flags.IntVar(&o.volumes, "volumes", 50_000, "how many volumes the linked nodes have together")
	flags.IntVar(&o.calls, "calls", 1000, "how many calls the median of a call is taken of")
	flags.DurationVar(&o.idle, "idle", 2*time.Minute, "for how long the idle cluster is watched")
	flags.DurationVar(&o.kills, "kills", 10*time.Second,
		"the time between two deaths of the controller, while claims are made")
	flags.DurationVar(&o.cut, "cut", time.Minute, "for how long a node has no network meanwhile")
	flags.IntVar(&o.burst, "burst", 1000, "how many claims are made meanwhile")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if min(o.rounds, o.nodes, o.linked, o.calls, o.burst) < 1 || o.volumes < o.linked ||
		min(o.idle, o.kills, o.cut) <= 0 {
		return o, errors.New("want at least 1 of everything, and a volume for each linked node")
	}
	return o, nil
}

// clientGCPercent keeps the garbage collector of the nodes off the processors that they share with
// the controller.
const clientGCPercent = 400

// measure runs the measurements and cleans up whatever happens, also when interrupted.
func measure(
	o options, out io.Writer, progress func(format string, args ...any),
) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("pools are on a tmpfs, which only root mounts: run `sudo make fleet`")
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("--run: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM,
		syscall.SIGHUP)
	defer stop()
	defer debug.SetGCPercent(debug.SetGCPercent(clientGCPercent))
	dir, err := os.MkdirTemp(o.parent, "fleet-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	progress("building")
	controller, err := build(ctx, dir)
	if err != nil {
		return err
	}
	b := &bench{
		options:    o,
		controller: controller,
		report:     report.New(out, report.DescribeMachine("go run ./test/fleet", "tmpfs")),
		progress:   progress,
	}
	b.parent = dir
	for _, m := range measurements {
		if !only.MatchString(m.name) {
			continue
		}
		progress("%s", m.name)
		if err := m.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	fmt.Fprintf(out, "\nload at the end: %s\n", report.Load())
	if o.json == "" {
		return nil
	}
	return b.report.WriteJSON(o.json)
}

// decode reads one JSON value.
func decode[T any](data []byte) (value T, err error) {
	err = json.Unmarshal(data, &value)
	return value, err
}
