// Package guest is for tests that run inside the virtual machine of package vm.
package guest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

// Running tells whether this is inside the virtual machine.
func Running() bool { return os.Getenv(job.DisksEnv) != "" }

// Disk is where the disk of that name is: the directory in which it is mounted, or the block device
// of one that is raw. It skips the test outside of the virtual machine.
func Disk(t testing.TB, name string) string {
	t.Helper()
	if !Running() {
		t.Skip("needs the virtual machine of test/vm: run `go run ./test/vm/vmtest PACKAGE`")
	}
	for entry := range strings.SplitSeq(os.Getenv(job.DisksEnv), ",") {
		if got, path, _ := strings.Cut(entry, "="); got == name {
			return path
		}
	}
	t.Fatalf("the machine has no disk %q, but %s", name, os.Getenv(job.DisksEnv))
	return ""
}

// AllowPowerCut says that, in a boot with PowerCut, the power may go from now on.
func AllowPowerCut() {
	// On a line of its own, whatever the test has printed.
	fmt.Fprintf(os.Stdout, "\n%s\n", job.PowerCutLine)
}

// CutPower does not return.
func CutPower() {
	AllowPowerCut()
	select {}
}
