// Command bench measures the driver over its socket, and in the same rounds the floor: the durable
// system calls that no driver can do without, made directly. `make bench` runs it; `make bench
// BENCH_FLAGS='--fs xfs --run cycle'` runs a part. With --vm it runs in the virtual machine of
// test/vm, on a disk with project quotas.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// options say what to measure and where.
type options struct {
	args     []string // that they were made of
	vm       bool
	fs       string
	parent   string
	only     string
	json     string
	env      []string
	clients  []int
	rounds   int
	duration time.Duration
	calls    int
	volumes  int
	// snapshotCount is how many snapshots the large pool has.
	snapshotCount int
	files         int
	bytes         int
	fleet         string // the flags of test/fleet. Empty: it is left out
}

// inodes is how many inodes the pools take together: a volume of many files and two copies of it,
// and three for each volume and each snapshot, and some to spare.
func (o options) inodes() int { return 4 * (o.files + o.volumes + o.snapshotCount) }

// bench is one run.
type bench struct {
	options
	*fixture
	report *report.Report
	out    io.Writer
}

// benchmarks are in the order in which they disturb each other least: the small ones find the
// filesystem fresh.
var benchmarks = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"cycle", (*bench).cycles},
	{"processes", (*bench).processes},
	{"enforced", (*bench).enforced},
	{"idle", (*bench).idle},
	{"create", (*bench).createBesideMany},
	{"delete", (*bench).deleteLarge},
	{"fsgroup", (*bench).regroup},
	{"snapshot", (*bench).snapshots},
	{"huge", (*bench).snapshotHuge},
	{"io-directory", (*bench).writeToDirectory},
	{"io-ext4", (*bench).writeToExt4},
	{"io-xfs", (*bench).writeToXFS},
	{"io-block", (*bench).writeToBlock},
	{"stats", (*bench).statsOfMany},
	{"quota", (*bench).quotas},
	{"start", (*bench).startWithMany},
	{"limit", (*bench).startWithinLimit},
	{"fleet", (*bench).centralDeployment},
}

// names are those of all benchmarks, in order.
func names() string {
	var all []string
	for _, benchmark := range benchmarks {
		all = append(all, benchmark.name)
	}
	return strings.Join(all, ", ")
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return
	}
	if err == nil {
		err = measure(o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{args: args}
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	flags.StringVar(&o.fs, "fs", "ext4",
		"filesystem of the pools: ext4, xfs or btrfs on a loop device, or host")
	flags.BoolVar(
		&o.vm,
		"vm",
		false,
		"in a virtual machine whose kernel has project quotas, with the pools on a disk of --fs with them; "+
			"its processor is emulated, so only ratios count",
	)
	flags.StringVar(&o.parent, "dir", os.TempDir(),
		"where images and host pools are made, and removed again")
	flags.StringVar(&o.only, "run", "", "regular expression: which of "+names()+" (all)")
	flags.StringVar(&o.json, "json", "", "a file that gets the report as JSON")
	flags.StringArrayVar(&o.env, "env", nil,
		"what the driver's environment has besides, such as GOMAXPROCS=4; repeatable")
	flags.IntSliceVar(&o.clients, "clients", []int{1, 2, 4, 8, 16, 32},
		"how many cycles are under way at a time")
	flags.IntVar(&o.rounds, "rounds", 5, "how often each measurement is made")
	flags.DurationVar(&o.duration, "duration", 2*time.Second, "how long a round of cycles takes")
	flags.IntVar(&o.calls, "calls", 300, "how many calls the median of a single call is taken of")
	flags.IntVar(&o.volumes, "volumes", 100_000,
		"how many volumes the large pool has; a tenth of it is in the medium one")
	flags.IntVar(&o.snapshotCount, "snapshots", 200_000,
		"how many snapshots the large pool has beside its volumes")
	flags.IntVar(&o.files, "files", 100_000,
		"how many files the large volume has; a tenth of it is in one that is copied")
	flags.StringVar(&o.fleet, "fleet", fleetFlags,
		"the flags of test/fleet; empty: the central deployment is not measured")
	flags.IntVar(&o.bytes, "bytes", 512<<20, "how much is in the few files of a volume that is copied")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if _, known := mkfs[o.fs]; !known && o.fs != onHost {
		return o, fmt.Errorf("--fs=%s: want ext4, xfs, btrfs or host", o.fs)
	}
	if o.vm && (o.fs == onHost || o.json != "") {
		return o, errors.New(
			"--vm: want --fs=ext4 or xfs, and no --json: what is written in there is gone with it",
		)
	}
	few := o.snapshotCount < 1 || o.files < 10 || o.bytes < 1<<20
	if few || o.rounds < 1 || o.calls < 1 || o.volumes < 1000 || len(o.clients) == 0 ||
		slices.Min(o.clients) < 1 {
		return o, errors.New("want at least 1 round, 1 call, 1,000 volumes, 1 snapshot, 10 files, 1 MiB and 1 client")
	}
	return o, nil
}

// clientGCPercent keeps the clients' garbage collector off the processors that they share with the
// driver.
const clientGCPercent = 400

// measure runs the benchmarks and cleans up whatever happens, also when interrupted.
func measure(o options, out io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("mounting needs root: run `sudo make bench`")
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("--run: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM,
		syscall.SIGHUP)
	defer stop()
	if o.vm {
		return measureInside(ctx, o, out)
	}
	debug.SetGCPercent(clientGCPercent)
	f, err := newFixture(ctx, o)
	defer func() { err = errors.Join(err, f.close()) }()
	if err != nil {
		return err
	}
	b := &bench{
		options: o,
		fixture: f,
		report:  report.New(out, report.DescribeMachine("go run ./test/bench", f.disk.about)),
		out:     out,
	}
	fmt.Fprintln(out, "kubelet's directories on another disk, of ext4")
	for _, benchmark := range benchmarks {
		if !only.MatchString(benchmark.name) {
			continue
		}
		if err := errors.Join(f.disk.settle(), benchmark.run(b, ctx)); err != nil {
			return fmt.Errorf("%s: %w", benchmark.name, err)
		}
	}
	fmt.Fprintf(out, "\nload at the end: %s\n", report.Load())
	if o.json == "" {
		return nil
	}
	return b.report.WriteJSON(o.json)
}
