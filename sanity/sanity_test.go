// Package sanity runs csi-test's suite, which every CSI driver must pass, against the driver's
// process on its socket, with real mounts, for each type of volume on each filesystem.  To run one
// spec: go test ./sanity -ginkgo.focus='be idempotent' -ginkgo.v. Such a run always fails at its
// end, because the other specs are not on the list of skips.
package sanity

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
	"github.com/csi-hostpath/csi-hostpath/test/fixture"
	"github.com/csi-hostpath/csi-hostpath/test/process"
)

// suiteTimeout ends the test if the driver hangs, because csi-test gives its calls no deadline.
const suiteTimeout = 10 * time.Minute

// diskBytes has room for all images of a configuration together, also if none of them was purged
// yet. Blocks that are not written take no room.
func diskBytes() int64 {
	if os.Getenv(disks.ProjectQuotaEnv) != "" { // no images in the virtual machine
		return 0
	}
	return 64 << 30
}

// TestSanity runs all configurations in one suite, because Ginkgo runs one suite in a process.
func TestSanity(t *testing.T) {
	disks.RequireRoot(t)
	binary := fixture.Build(t)
	var all []*configuration
	for _, fstype := range disks.Types() {
		dirs := map[string]string{}
		for _, k := range kinds(fstype) {
			// Before the disk is made, so that the disk is unmounted before the directory is removed.
			dirs[k.name] = t.TempDir()
		}
		disk := disks.New(t, fstype, diskBytes())
		for _, k := range kinds(fstype) {
			all = append(all, start(t, disk, fstype, k, process.Options{Binary: binary, Dir: dirs[k.name]}))
		}
	}
	runSuite(t, all)
	for _, c := range all {
		t.Run(c.name()+" leaves nothing", c.wantNothingLeft)
	}
}

func runSuite(t *testing.T, all []*configuration) {
	t.Helper()
	gomega.RegisterFailHandler(ginkgo.Fail)
	names := make([]string, 0, len(all))
	for _, c := range all {
		names = append(names, c.name())
		c.register(t)
	}
	ginkgo.ReportAfterSuite("what skips is listed", func(report ginkgo.Report) {
		if faults := compareSkips(report, names); len(faults) > 0 {
			ginkgo.Fail("see skips_test.go:\n" + strings.Join(faults, "\n"))
		}
	})
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.Timeout = suiteTimeout
	reporter.NoColor = true // the output goes into log files
	ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)
}
