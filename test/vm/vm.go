// Package vm runs tests and programs of this module on Debian's cloud kernel under QEMU: a kernel
// that has project quotas on XFS and ext4, whatever this machine's kernel has, and one whose power
// can be cut.
//
//	vm.Run(t, vm.Config{
//		Packages: []string{"./pkg/pool"},
//		Disks:    []vm.Disk{{FS: "xfs", ProjectQuota: true}},
//	})
//
// The tests run there as root, in the order of the packages, and find their disks with package
// guest. What they need besides is built or copied in: programs of this module (Config.Programs),
// mkfs, fsck and friends from this machine, busybox for the rest. There is no Go toolchain and no
// network but loopback.
//
// QEMU emulates the processor (TCG), so that it works inside any virtual machine; tests are several
// times slower in there.
//
// All that Run needs it installs and downloads at its first use, into Cache; where it cannot (not
// root, not Debian, not amd64) the test skips. go test's own cache does not see the code of the
// packages: pass -count=1, as `make test` does.
package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

// Config says what the machine has and what it tests.
type Config struct {
	// Packages are patterns as go test takes them, seen from the module's root. Those without tests
	// are left out. A machine whose boots all have a Command needs none.
	Packages []string
	// Tags are build tags. The tag vm is always set: a test file that makes sense nowhere else asks
	// for it.
	Tags []string
	// Programs are main packages that the tests call, such as ./cmd/csi-hostpath, built with Tags
	// too. They are in the guest's PATH, and CSI_HOSTPATH_TEST_DRIVER has the path of the driver.
	Programs []string
	// Tools are programs of this machine that the guest gets besides those that every guest has.
	Tools []string
	// Disks are made once, and keep what is written to them over all boots.
	Disks []Disk
	// Memory is in bytes; 0: 1 GiB.
	Memory int64
}

// Boot is one life of the machine. It ends when the tests have, with everything unmounted; or with
// a power cut.
type Boot struct {
	// Command runs in place of the tests: one of Config.Programs by the last element of its path,
	// and arguments.
	Command []string
	// Run chooses the tests, as go test's -run does; empty: all.
	Run string
	// Flags are further flags of the test binaries, such as -test.short.
	Flags []string
	// Env is added to the environment of what runs, as KEY=value.
	Env []string
	// Timeout ends the boot, and fails the test; 0: 5 minutes. It is for a machine of the usual
	// speed, and begins when the disks are mounted: a machine measures its speed then, and on a
	// slower one Timeout is longer, as is what package fixture calls patience.
	Timeout time.Duration
	// PowerCut kills the machine as soon as a test calls guest.CutPower or guest.AllowPowerCut.
	// Without that call the boot fails. What the guest kernel has not written to the disk by then
	// is lost; what it has written is not, flushed or not.
	PowerCut bool
	// CutDelay is how much longer the power stays on, with PowerCut.
	CutDelay time.Duration
}

// Run boots the machine once for each of boots, one after the other and with the same disks;
// without any, once, with nothing special. A test that fails or skips in there does so out here
// too, as a subtest of t.
func Run(t *testing.T, config Config, boots ...Boot) {
	t.Helper()
	machine, err := Prepare(t.Context(), config, t.TempDir(), t.Logf)
	if errors.Is(err, ErrUnavailable) {
		t.Skipf("no virtual machine here: %v", err)
	}
	if err != nil {
		t.Fatalf("vm: %v", err)
	}
	if len(boots) == 0 {
		boots = []Boot{{}}
	}
	for i, boot := range boots {
		start := time.Now()
		results, err := machine.Boot(t.Context(), boot, t.Logf)
		report(t, results)
		if err != nil {
			t.Fatalf("vm: boot %d of %d: %v", i+1, len(boots), err)
		}
		t.Logf("vm: boot %d of %d took %s", i+1, len(boots), time.Since(start).Round(time.Millisecond))
	}
}

// report makes subtests of what the reader of the outer test has to know. Those that passed are in
// the log.
func report(t *testing.T, results []Result) {
	t.Helper()
	for _, result := range results {
		t.Run(result.Package, func(t *testing.T) {
			for _, test := range result.Tests {
				switch test.Outcome {
				case Skipped:
					t.Run(test.Name, func(t *testing.T) { t.Skip(test.Output) })
				case Failed:
					t.Run(test.Name, func(t *testing.T) { t.Error(test.Output) })
				case Passed:
				}
			}
			if result.ExitCode != 0 {
				t.Errorf("exit code %d", result.ExitCode)
			}
			if len(result.Tests) == 0 && result.ExitCode == 0 {
				t.Log("no tests to run")
			}
		})
	}
}

// Cache is the directory in which the kernel is kept between runs: the environment variable
// CSI_HOSTPATH_VM_CACHE, or csi-hostpath-vm below the user's cache directory. Remove it for a newer
// kernel.
func Cache() (string, error) {
	if dir := os.Getenv("CSI_HOSTPATH_VM_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("set CSI_HOSTPATH_VM_CACHE: %w", err)
	}
	return dir + "/csi-hostpath-vm", nil
}

// ErrUnavailable says that no virtual machine can be had here, and what to do about it.
var ErrUnavailable = errors.New("unavailable")

// Logf takes a line of the log.
type Logf = func(format string, args ...any)

// Prepare builds the tests and makes the disks, all below dir, which exists and is the caller's to
// remove. The error is ErrUnavailable where no change to this project could mend it.
func Prepare(ctx context.Context, config Config, dir string, logf Logf) (*Machine, error) {
	cache, err := Cache()
	if err != nil {
		return nil, err
	}
	if err := ensurePackages(ctx, logf); err != nil {
		return nil, err
	}
	m := &Machine{config: config, dir: dir}
	if m.kernel, err = findKernel(ctx, cache, logf); err != nil {
		return nil, err
	}
	if m.payload, err = buildPayload(ctx, config, dir); err != nil {
		return nil, err
	}
	if m.initrd, err = buildInitrd(ctx, m.kernel, config.Tools, dir); err != nil {
		return nil, err
	}
	m.disks, err = makeDisks(ctx, config.Disks, dir)
	return m, err
}
