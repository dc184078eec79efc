package suite

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"
)

func spec(name string, state types.SpecState, message string) types.SpecReport {
	return types.SpecReport{
		LeafNodeType: types.NodeTypeIt, LeafNodeText: name, State: state,
		Failure: types.Failure{Message: message},
	}
}

func judged(t *testing.T, specs ...types.SpecReport) (Result, string) {
	t.Helper()
	data, err := json.Marshal([]types.Report{{SpecReports: specs}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := read(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.judge("directories"); err != nil {
		return r, err.Error()
	}
	return r, ""
}

func TestOnlyListedReasonsMaySkip(t *testing.T) {
	passed := spec("works", types.SpecStatePassed, "")
	notChosen := spec("not chosen", types.SpecStateSkipped, "")
	for _, tc := range []struct {
		name string
		spec types.SpecReport
		want string
	}{
		{"listed", spec("a", types.SpecStateSkipped, "X only supports singleNodeVolume -- skipping"), ""},
		{"unlisted", spec("b", types.SpecStateSkipped, "no mood"), "not in skips.txt: b: no mood"},
		{"failed", spec("c", types.SpecStateFailed, "broken\nlong"), "failed: c: broken"},
		{"timed out", spec("d", types.SpecStateTimedout, "late"), "failed: d: late"},
		{"panicked", spec("e", types.SpecStatePanicked, "oh"), "failed: e: oh"},
	} {
		_, got := judged(t, passed, notChosen, tc.spec)
		if !strings.Contains(got, tc.want) || (got == "") != (tc.want == "") {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestRunWithoutSpecsIsAFailure(t *testing.T) {
	_, got := judged(t, spec("not chosen", types.SpecStateSkipped, ""))
	if !strings.Contains(got, "no spec ran") {
		t.Errorf("%q", got)
	}
}

func TestFailureOutsideOfSpecsCounts(t *testing.T) {
	before := types.SpecReport{
		LeafNodeType: types.NodeTypeSynchronizedBeforeSuite, State: types.SpecStateFailed,
		Failure: types.Failure{Message: "no nodes"},
	}
	if _, got := judged(t, before); !strings.Contains(got, "no nodes") {
		t.Errorf("%q", got)
	}
}

func TestTableCountsWhatRan(t *testing.T) {
	r, _ := judged(t,
		spec("works", types.SpecStatePassed, ""), spec("not chosen", types.SpecStateSkipped, ""),
		spec("a", types.SpecStateSkipped, "X only supports singleNodeVolume -- skipping"))
	got := r.Table("directories")
	for _, want := range []string{
		"| directories | 1 passed | 0 failed | 1 skipped |",
		"1 skipped: a volume is on one node's disk",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}

func TestShortRunWantsEachOfItsSpecs(t *testing.T) {
	kind := Kind{Name: "directories", short: []string{"works", "grows"}}
	r, _ := judged(t, spec("it works", types.SpecStatePassed, ""),
		spec("it grows", types.SpecStateSkipped, "X only supports singleNodeVolume -- skipping"))
	err := r.judgeShort(kind)
	if err == nil || err.Error() != "directories: did not pass: grows" {
		t.Errorf("%v", err)
	}
}

// Each kind has a file and a class of classes.yaml, and each file a kind.
func TestEachKindOfVolumesHasADriverFile(t *testing.T) {
	classes, err := files.ReadFile("classes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, k := range Kinds() {
		driver, err := k.driver()
		if err != nil {
			t.Errorf("%s: %v", k.Name, err)
			continue
		}
		used[cmp.Or(k.file, k.Name)+".yaml"] = true
		for _, found := range regexp.MustCompile(`FromExistingClassName: (\S+)`).FindAllStringSubmatch(
			driver, -1) {
			if !strings.Contains(string(classes), "{name: "+found[1]+"}") {
				t.Errorf("%s: classes.yaml has no class %s", k.Name, found[1])
			}
		}
	}
	drivers, err := files.ReadDir("drivers")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range drivers {
		if !used[file.Name()] {
			t.Errorf("no kind of volumes uses %s", file.Name())
		}
	}
	if _, err := Choose("images,cubes"); err == nil {
		t.Error("an unknown kind was chosen")
	}
}

// Where an ext4 cannot grow, the specs about it are left out of images, and only there.
func TestGrowthOfExt4IsLeftOutWhereItIsImpossible(t *testing.T) {
	const spec = "[Testpattern: Dynamic PV (default fs)(allowExpansion)] volume-expand should resize"
	leavesOut := func(k Kind) bool {
		return k.skip != "" && regexp.MustCompile(k.skip).MatchString(spec)
	}
	for _, k := range Kinds() {
		if leavesOut(k) {
			t.Errorf("%s leaves it out everywhere", k.Name)
		}
		if out := leavesOut(k.withoutGrowth()); out != (k.Name == "images") {
			t.Errorf("%s, where ext4 cannot grow: left out: %t", k.Name, out)
		}
	}
}
