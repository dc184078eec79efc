package suite

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2/types"
)

// Result is a report of Ginkgo.
type Result struct {
	specs   types.SpecReports
	elapsed time.Duration
}

func read(path string) (Result, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Result{}, fmt.Errorf("no report: %w", err)
	}
	var reports []types.Report
	if err := json.Unmarshal(data, &reports); err != nil {
		return Result{}, fmt.Errorf("report: %w", err)
	}
	var r Result
	for _, report := range reports {
		r.specs = append(r.specs, report.SpecReports...)
		r.elapsed = max(r.elapsed, report.RunTime)
	}
	return r, nil
}

// passed, failed and skipped count what was chosen to run. A spec that was not chosen is in the
// report as skipped, without a reason. A node that is no spec, such as that before the suite, only
// counts when it fails.
func (r Result) passed() (specs types.SpecReports) {
	for _, s := range r.specs {
		if s.LeafNodeType == types.NodeTypeIt && s.State == types.SpecStatePassed {
			specs = append(specs, s)
		}
	}
	return specs
}

func (r Result) failed() (specs types.SpecReports) {
	for _, s := range r.specs {
		if s.State.Is(types.SpecStateFailureStates) {
			specs = append(specs, s)
		}
	}
	return specs
}

func (r Result) skipped() (specs types.SpecReports) {
	for _, s := range r.specs {
		if s.LeafNodeType == types.NodeTypeIt && s.State == types.SpecStateSkipped &&
			s.Failure.Message != "" {
			specs = append(specs, s)
		}
	}
	return specs
}

// judge is an error that names each spec that failed, or skipped for a reason that is not listed.
func (r Result) judge(kind string) error {
	var errs []error
	for _, s := range r.failed() {
		first, _, _ := strings.Cut(s.Failure.Message, "\n")
		errs = append(errs, fmt.Errorf("%s: failed: %s: %s", kind, s.FullText(), first))
	}
	for _, s := range r.skipped() {
		if _, ok := reason(s.Failure.Message); !ok {
			errs = append(errs, fmt.Errorf("%s: skips, and the reason is not in skips.txt: %s: %s", kind,
				s.FullText(), s.Failure.Message))
		}
	}
	if len(r.passed()) == 0 && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("%s: no spec ran", kind))
	}
	return errors.Join(errs...)
}

// judgeShort is an error that names each spec of a short run that did not pass: upstream may give a
// spec another name.
func (r Result) judgeShort(k Kind) error {
	var errs []error
	for _, name := range k.short {
		passes := func(s types.SpecReport) bool { return strings.HasSuffix(s.FullText(), name) }
		if !slices.ContainsFunc(r.passed(), passes) {
			errs = append(errs, fmt.Errorf("%s: did not pass: %s", k.Name, name))
		}
	}
	return errors.Join(errs...)
}

// reason is ours for a skip with a message.
func reason(message string) (string, bool) {
	skips, _ := files.ReadFile("skips.txt") // it is in the program
	for line := range strings.Lines(string(skips)) {
		part, reason, ok := strings.Cut(strings.TrimSpace(line), " => ")
		if ok && !strings.HasPrefix(line, "#") && strings.Contains(message, part) {
			return reason, true
		}
	}
	return "", false
}

// Table is in Markdown, for docs/conformance.md.
func (r Result) Table(kind string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %d passed | %d failed | %d skipped | %s |\n", kind,
		len(r.passed()), len(r.failed()), len(r.skipped()), r.elapsed.Round(time.Second))
	counts := map[string]int{}
	for _, s := range r.skipped() {
		why, _ := reason(s.Failure.Message)
		counts[why]++
	}
	for _, why := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "  %3d skipped: %s\n", counts[why], why)
	}
	for _, s := range r.failed() {
		fmt.Fprintf(&b, "  failed: %s\n", s.FullText())
	}
	return b.String()
}
