package quotas

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// packages have the tests that run once more in the virtual machine.
var packages = []string{"./pkg/pool", "./sanity", "./test/crash", "./test/quotas"}

// leftOut are patterns of tests that do not run there.
var leftOut = []string{
	// They say nothing of quotas, and take long where the processor is emulated.
	"TestContentFromGitOutlivesKillsAndLoad",
	"TestCopiesThatWereAcknowledgedSurviveAPowerCut",
	"TestCopyOutlivesItsCallAndNotItsDriver",
	"TestCopyThatFillsTheDiskLeavesNothing",
	"TestPodKeepsItsDeviceAndGetsNoOtherWhileItsDriverIsKilled",
	"TestPodMayWriteWhileItsVolumeIsCopied",
	"TestPurgeOfALargeVolumeIsInterruptedAndResumed",
	"TestRacingClients",
	"TestRestartFindsTheSameVolumesAndTheSameSums",
	"TestSIGKILLAtEveryStepLosesAndLeaksNothing",
	"TestSIGKILLAtEveryStepOfADeleteFromAFullDiskLosesNothingElse",
	"TestSIGKILLUnderLoadLosesNothing",
	// It reads the sources, which the machine does not have.
	"TestEveryTestThatIsLeftOutIsThere",
	// It builds a program, and the machine has no Go.
	"TestStockProgramFailsOnlyWhereItIsWrong",
	// It is the next boot's.
	"TestAfterPowerCut",
	// They are of btrfs' simple quotas, for which Debian's kernel is too old (Linux 6.7).
	"TestFailedSnapshotLeavesTheLimitAsItWas",
	"TestNearlyFullVolumeIsOverwrittenWhileItsSnapshotIsMade",
	"TestPoolFromABackupOpensAndTakesSnapshots",
	"TestRestoredVolumeIsHeldToItsOwnSize",
	"TestSnapshotInTheTrash.*",
	"TestSnapshotThatIsNotDurableTakesNothingOffWhatOthersKeep",
	"TestSnapshotsTakeNothingOfTheirVolumesSize",
	"TestVolumeMadeAnewHasNothingOfTheLimitOfTheOldOne",
	"TestVolumeWithTheQuotaIDOfADeadOneHasItsOwnLimit",
}

// A test that is renamed would run in the machine, and fail there or take long.
func TestEveryTestThatIsLeftOutIsThere(t *testing.T) {
	var source strings.Builder
	for _, pkg := range packages {
		files, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
	}
	for _, pattern := range leftOut {
		function := regexp.MustCompile(fmt.Sprintf(`(?m)^func %s\(t \*testing\.T\)`, pattern))
		if !function.MatchString(source.String()) {
			t.Errorf("no test is called %s: was it renamed?", pattern)
		}
	}
}
