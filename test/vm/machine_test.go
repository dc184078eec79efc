//go:build qemu

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const guestTests = "./test/vm/guest"

func TestProjectQuotasHold(t *testing.T) {
	Run(t, Config{
		Packages: []string{guestTests},
		Disks:    []Disk{{FS: "xfs", ProjectQuota: true}, {FS: "ext4", ProjectQuota: true}},
	}, Boot{Run: "^TestProjectQuotaHolds$"})
}

func TestCopiesAreUnderQuotasOfTheirOwn(t *testing.T) {
	Run(t, Config{
		Packages: []string{guestTests},
		Disks:    []Disk{{FS: "xfs", ProjectQuota: true}, {FS: "ext4", ProjectQuota: true}},
	}, Boot{Run: "^TestCopiesAreUnderQuotasOfTheirOwn$"})
}

func TestPowerCutTakesOnlyWhatWasNotFsynced(t *testing.T) {
	Run(t, Config{
		Packages: []string{guestTests},
		Disks:    []Disk{{FS: "xfs"}, {FS: "ext4"}, {FS: "btrfs"}, {Name: "raw", Size: 1 << 20}},
	},
		Boot{Run: "^TestBeforePowerCut$", PowerCut: true, CutDelay: 50 * time.Millisecond},
		Boot{Run: "^TestAfterPowerCut$"},
	)
}

// TestPowerCutBreaksNoPromiseOfAPool cuts the power twice while clients create and delete volumes,
// and exchange trees of git on other disks.
func TestPowerCutBreaksNoPromiseOfAPool(t *testing.T) {
	check := Boot{Run: "^TestPoolAfterPowerCut$"}
	machine := Config{Packages: []string{guestTests}, Disks: []Disk{{Name: "raw", Size: 1 << 20}}}
	for _, fstype := range []string{"xfs", "ext4", "btrfs"} {
		machine.Disks = append(machine.Disks, Disk{FS: fstype}, Disk{Name: "trees-" + fstype, FS: fstype})
	}
	Run(t, machine,
		Boot{Run: "^TestPoolBeforePowerCut$", PowerCut: true}, check,
		Boot{Run: "^TestPoolBeforePowerCut$", PowerCut: true, CutDelay: 170 * time.Millisecond}, check,
	)
}

// TestPowerCutBreaksNoPromiseOfACopy cuts the power twice while clients have their volumes copied.
func TestPowerCutBreaksNoPromiseOfACopy(t *testing.T) {
	check := Boot{Run: "^TestCopiesAfterPowerCut$"}
	Run(t, Config{
		Packages: []string{guestTests},
		Disks:    []Disk{{FS: "xfs"}, {FS: "ext4"}, {FS: "btrfs"}, {Name: "raw", Size: 1 << 20}},
	},
		Boot{Run: "^TestCopiesBeforePowerCut$", PowerCut: true}, check,
		Boot{Run: "^TestCopiesBeforePowerCut$", PowerCut: true, CutDelay: 170 * time.Millisecond}, check,
	)
}

// TestOutcomesComeOut boots one machine several times, and looks at what it says of itself.
func TestOutcomesComeOut(t *testing.T) {
	machine := prepare(t,
		Config{Packages: []string{guestTests}, Disks: []Disk{{FS: "ext4", Size: 64 << 20}}})
	tests := []struct {
		name     string
		boot     Boot
		outcomes string
		exitCode int
		wantErr  string
	}{
		{name: "first", boot: Boot{Run: "^TestFirstBoot$"}, outcomes: "TestFirstBoot pass"},
		{name: "second", boot: Boot{Run: "^TestSecondBoot$"}, outcomes: "TestSecondBoot pass"},
		{
			name:     "fail and skip, no power cut",
			boot:     Boot{Env: []string{"VM_TEST_OUTCOME=fail, skip"}, PowerCut: true},
			outcomes: "TestOutcomePass pass, TestOutcomeFail fail, TestOutcomeSkip skip",
			exitCode: 1,
			wantErr:  "no test has called guest.CutPower",
		},
		{
			name:     "hang",
			boot:     Boot{Env: []string{"VM_TEST_OUTCOME=hang"}, Timeout: dumpTime + time.Second},
			exitCode: 2,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.boot.Run == "" {
				tt.boot.Run = "^TestOutcome"
			}
			results, err := machine.Boot(t.Context(), tt.boot, t.Logf)
			if (err == nil) != (tt.wantErr == "") ||
				err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
			if len(results) != 1 || results[0].ExitCode != tt.exitCode ||
				results[0].Package != "test/vm/guest" {
				t.Fatalf("results %v, want exit code %d of test/vm/guest", results, tt.exitCode)
			}
			if got := outcomes(results[0]); !strings.Contains(got, tt.outcomes) {
				t.Errorf("outcomes %q, want %q", got, tt.outcomes)
			}
		})
	}
}

func TestCommandRunsInPlaceOfTests(t *testing.T) {
	machine := prepare(t, Config{Programs: []string{driver}})
	results, err := machine.Boot(t.Context(),
		Boot{Command: []string{"csi-hostpath", "no-such-command"}}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || results[0].Package != "csi-hostpath" || results[0].ExitCode != 2 {
		t.Errorf("results %+v, want exit code 2 of csi-hostpath", results)
	}
	if _, err := machine.Boot(t.Context(), Boot{}, t.Logf); err == nil ||
		!strings.Contains(err.Error(), "nothing to run") {
		t.Errorf("boot without a command: %v, want that there is nothing to run", err)
	}
}

// TestMachineEndsWithItsContext also shows that no process is left.
func TestMachineEndsWithItsContext(t *testing.T) {
	machine := prepare(t, Config{Packages: []string{guestTests}})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := machine.Boot(ctx, Boot{}, t.Logf); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range processes {
		// A process may be gone by now.
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), machine.dir) {
			t.Errorf("%s still runs: %q", file, line)
		}
	}
}

func prepare(t *testing.T, config Config) *Machine {
	t.Helper()
	machine, err := Prepare(t.Context(), config, t.TempDir(), t.Logf)
	if errors.Is(err, ErrUnavailable) {
		t.Skipf("no virtual machine here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return machine
}

func outcomes(result Result) string {
	var all []string
	for _, test := range result.Tests {
		all = append(all, fmt.Sprintf("%s %s", test.Name, test.Outcome))
	}
	return strings.Join(all, ", ")
}
