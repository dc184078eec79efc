package sanity

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"

	"github.com/csi-hostpath/csi-hostpath/pkg/router"
	"github.com/csi-hostpath/csi-hostpath/test/controller"
	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// stockProgram is csi-test's own program, as users run it.
const stockProgram = "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity"

// stockFailures has every spec that fails when csi-test's own program runs it, and why.
func stockFailures() map[string]string {
	return map[string]string{
		"CreateSnapshot [Controller Server] " +
			"should succeed when creating a snapshot with accessibility requirements": "csi-test compares " +
			"the Go structures of a topology that it has sent with one that it has received, and protobuf " +
			"keeps the size of what has been sent in there (sizeReply makes them equal in TestSanity)",
	}
}

// TestStockProgramFailsOnlyWhereItIsWrong runs csi-sanity as users do: csi-test's program, without
// changes and with its own volume IDs.
func TestStockProgramFailsOnlyWhereItIsWrong(t *testing.T) {
	disks.RequireRoot(t)
	binary, program := fixture.Build(t), filepath.Join(t.TempDir(), "csi-sanity")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, stockProgram)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	for _, name := range []string{"stock", "stock" + centralSuffix} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			disk := disks.New(t, disks.XFS, diskBytes())
			d := fixture.NewDriver(t, process.Options{
				Binary: binary, Dir: dir, Pools: map[string]string{"default": filepath.Join(disk.Dir, "pool")},
			})
			var args []string
			if strings.HasSuffix(name, centralSuffix) {
				args = startCentral(t, d)
			} else {
				d.Start()
			}
			for _, fault := range compareStock(name, runStock(t, program, d, args...)) {
				t.Error(fault)
			}
			d.Stop()
		})
	}
}

// startCentral starts the driver with a controller, and returns the program's arguments for that.
func startCentral(t *testing.T, d *fixture.Driver) (args []string) {
	t.Helper()
	central := controller.Start(t, router.Options{})
	d.SetArgs(central.Args(process.NodeName)...)
	d.Start()
	central.WaitPool(poolID(t, d.Controller))
	return []string{"-csi.controllerendpoint=unix://" + central.Socket}
}

func runStock(t *testing.T, program string, d *fixture.Driver, args ...string) ginkgo.Report {
	t.Helper()
	target, staging := d.Path("kubelet", targetParent), d.Path("kubelet", stagingPath)
	// The program makes the last directory of each path itself.
	for _, path := range []string{target, staging} {
		fixture.Must(t, os.MkdirAll(filepath.Dir(path), 0o750))
	}
	out := d.Path("report.json")
	cmd := exec.CommandContext(t.Context(), program, append(args,
		"-csi.endpoint=unix://"+d.Socket(),
		"-csi.mountdir="+target,
		"-csi.stagingdir="+staging,
		"-csi.testvolumesize="+strconv.Itoa(volumeSize), // default: 10 GiB
		"-ginkgo.json-report="+out, "-ginkgo.timeout="+suiteTimeout.String(), "-ginkgo.no-color")...)
	said, failed := cmd.CombinedOutput() // the program fails, because of stockFailures
	var reports []ginkgo.Report
	content, err := os.ReadFile(out)
	if err == nil {
		err = json.Unmarshal(content, &reports)
	}
	if err != nil || len(reports) != 1 {
		t.Fatalf("%v: %v, %d reports, %v\n%s", cmd, failed, len(reports), err, said)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", said)
		}
	})
	return reports[0]
}

// compareStock returns one line for each difference between a report of the program and the lists
// of skips and failures.
func compareStock(name string, report ginkgo.Report) (faults []string) {
	wanted := stockFailures()
	for i, spec := range report.SpecReports {
		report.SpecReports[i].ContainerHierarchyTexts = append([]string{name},
			spec.ContainerHierarchyTexts...)
		text := strings.Join(append(slices.Clone(spec.ContainerHierarchyTexts), spec.LeafNodeText), " ")
		reason, listed := wanted[text]
		failed := spec.State.Is(types.SpecStateFailureStates)
		switch {
		case failed && !listed:
			faults = append(faults, "fails: "+text+": "+spec.Failure.Message)
		case listed && spec.State == types.SpecStatePassed:
			faults = append(faults, "does not fail any more, take it off the list: "+text+": "+reason)
		}
		if failed {
			delete(wanted, text)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(wanted)) {
		faults = append(faults, "has not failed: "+text)
	}
	return append(faults, compareSkips(report, []string{name})...)
}
