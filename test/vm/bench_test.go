//go:build qemu

package vm

import (
	"os/exec"
	"strings"
	"testing"
)

// TestBenchMeasuresProjectQuotasInside runs the part of the bench that this kernel may have nothing
// for.
func TestBenchMeasuresProjectQuotasInside(t *testing.T) {
	prepare(t, Config{Packages: []string{guestTests}}) // skips where no machine can be had
	out, err := exec.CommandContext(t.Context(), "go", "run", "../bench", "--vm", "--fs=xfs",
		"--dir="+t.TempDir(), "--run=quota", "--rounds=1", "--calls=3").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"more with a project quota", "Quotas in CreateVolume, FileOrCreate", "load at the end",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the report has no %q:\n%s", want, out)
		}
	}
}
