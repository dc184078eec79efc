// Command vmtest runs tests of the module that it is started in, in the virtual machine, with an
// XFS and an ext4 disk that have project quotas, and a raw one:
//
//	go run ./test/vm/vmtest [-run PATTERN] [-skip PATTERN] [-env KEY=VALUE] [-tags TAGS]
//		[-program PACKAGE] [-memory MIB] [-timeout 10m] PACKAGE...
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/vm"
)

// driver is the program that the tests of csi-hostpath call.
const driver = "./cmd/csi-hostpath"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	config, boot := parse()
	dir, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return err
	}
	return errors.Join(test(ctx, config, boot, dir), os.RemoveAll(dir))
}

func test(ctx context.Context, config vm.Config, boot vm.Boot, dir string) error {
	logf := func(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }
	start := time.Now()
	machine, err := vm.Prepare(ctx, config, dir, logf)
	if err != nil {
		return err
	}
	logf("vm: prepared in %s", time.Since(start).Round(time.Millisecond))
	results, err := machine.Boot(ctx, boot, logf)
	if err != nil {
		return err
	}
	logf("vm: ended after %s", time.Since(start).Round(time.Millisecond))
	return summarize(results, logf)
}

func parse() (vm.Config, vm.Boot) {
	var config vm.Config
	var boot vm.Boot
	tags := flag.String("tags", "", "build `tags`, separated by commas")
	memory := flag.Int64("memory", 1024, "the machine's memory in `MiB`")
	flag.StringVar(&boot.Run, "run", "", "run only the tests that match `pattern`")
	flag.Func("skip", "leave out the tests that match `pattern`", func(pattern string) error {
		boot.Flags = append(boot.Flags, "-test.skip="+pattern)
		return nil
	})
	flag.Func(
		"env",
		"add `KEY=VALUE` to the tests' environment; may be repeated",
		func(entry string) error {
			boot.Env = append(boot.Env, entry)
			return nil
		},
	)
	flag.Func("program", "build the main `PACKAGE` for the tests to call; may be repeated "+
		"(default: "+driver+", where that is)", func(pkg string) error {
		config.Programs = append(config.Programs, pkg)
		return nil
	})
	flag.DurationVar(&boot.Timeout, "timeout", 10*time.Minute, "end the machine after that time")
	flag.Parse()
	config.Packages = flag.Args()
	config.Memory = *memory << 20
	if *tags != "" {
		config.Tags = strings.Split(*tags, ",")
	}
	if _, err := os.Stat(driver); err == nil && len(config.Programs) == 0 {
		config.Programs = []string{driver}
	}
	config.Disks = []vm.Disk{
		{FS: "xfs", ProjectQuota: true, Size: 2 << 30},
		{FS: "ext4", ProjectQuota: true, Size: 2 << 30},
		{Name: "raw", Size: 2 << 30},
	}
	return config, boot
}

// summarize prints a line for each package, and fails when one has.
func summarize(results []vm.Result, logf vm.Logf) error {
	failed := false
	for _, result := range results {
		count := map[vm.Outcome]int{}
		for _, test := range result.Tests {
			count[test.Outcome]++
		}
		failed = failed || result.ExitCode != 0
		logf("vm: %s: exit code %d, %d passed, %d failed, %d skipped", result.Package, result.ExitCode,
			count[vm.Passed], count[vm.Failed], count[vm.Skipped])
	}
	if failed {
		return errors.New("tests have failed")
	}
	return nil
}
