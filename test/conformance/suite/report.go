package main

import (
	_ "embed"
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

//go:embed skips.txt
var skips string

// result is a report of Ginkgo.
type result struct {
	specs   types.SpecReports
	elapsed time.Duration
}

func read(path string) (result, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return result{}, fmt.Errorf("no report: %w", err)
	}
	var reports []types.Report
	if err := json.Unmarshal(data, &reports); err != nil {
		return result{}, fmt.Errorf("report: %w", err)
	}
	var r result
	for _, report := range reports {
		r.specs = append(r.specs, report.SpecReports...)
		r.elapsed = max(r.elapsed, report.RunTime)
	}
	return r, nil
}

// passed, failed and skipped count what was chosen to run. A spec that was not chosen is in the
// report as skipped, without a reason. A node that is no spec, such as that before the suite, only
// counts when it fails.
func (r result) passed() (specs types.SpecReports) {
	for _, s := range r.specs {
		if s.LeafNodeType == types.NodeTypeIt && s.State == types.SpecStatePassed {
			specs = append(specs, s)
		}
	}
	return specs
}

func (r result) failed() (specs types.SpecReports) {
	for _, s := range r.specs {
		if s.State.Is(types.SpecStateFailureStates) {
			specs = append(specs, s)
		}
	}
	return specs
}

func (r result) skipped() (specs types.SpecReports) {
	for _, s := range r.specs {
		if s.LeafNodeType == types.NodeTypeIt && s.State == types.SpecStateSkipped &&
			s.Failure.Message != "" {
			specs = append(specs, s)
		}
	}
	return specs
}

// judge is an error that names each spec that failed, or skipped for a reason that is not listed.
func (r result) judge(kind string) error {
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

// reason is ours for a skip with a message.
func reason(message string) (string, bool) {
	for line := range strings.Lines(skips) {
		part, reason, ok := strings.Cut(strings.TrimSpace(line), " => ")
		if ok && !strings.HasPrefix(line, "#") && strings.Contains(message, part) {
			return reason, true
		}
	}
	return "", false
}

// table is in Markdown, for docs/conformance.md.
func (r result) table(disk, kind string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s on %s | %d passed | %d failed | %d skipped | %s |\n", kind, disk,
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
