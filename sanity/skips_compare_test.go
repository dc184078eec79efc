package sanity

import (
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
)

func TestOnlyListedSpecsMaySkipAndEachMust(t *testing.T) {
	const (
		listed   = "ExpandVolume [Controller Server] should work"
		unlisted = "Node Service should work"
	)
	tests := []struct {
		name  string
		spec  string
		state types.SpecState
		want  string
	}{
		{name: "as listed", spec: listed, state: types.SpecStateSkipped},
		{name: "as listed, pending", spec: listed, state: types.SpecStatePending},
		{name: "as not listed", spec: unlisted, state: types.SpecStatePassed},
		{name: "failed, which Ginkgo reports", spec: unlisted, state: types.SpecStateFailed},
		{
			name:  "new skip",
			spec:  unlisted,
			state: types.SpecStateSkipped,
			want:  "ext4: not listed, but skips",
		},
		{
			name:  "new pending",
			spec:  unlisted,
			state: types.SpecStatePending,
			want:  "ext4: not listed, but skips",
		},
		{
			name:  "listed runs",
			spec:  listed,
			state: types.SpecStatePassed,
			want:  "ext4: listed (in node deployment",
		},
		{
			name:  "listed fails",
			spec:  listed,
			state: types.SpecStateFailed,
			want:  "ext4: listed (in node deployment",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			report := reportAsListed("ext4", tt.spec)
			report.SpecReports = append(report.SpecReports, specReport("ext4", tt.spec, tt.state))
			got := strings.Join(compareSkips(report, []string{"ext4"}), "\n")
			if !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
				t.Errorf("faults are %q, want %q", got, tt.want)
			}
		})
	}
}

func TestListedSpecsHaveToExistInEachConfiguration(t *testing.T) {
	faults := compareSkips(reportAsListed("ext4", ""), []string{"ext4", "xfs"})
	if len(faults) != len(reasons("xfs")) ||
		!strings.HasPrefix(faults[0], "xfs: listed, but csi-test has no such spec") {
		t.Errorf("faults are %q, want one for each listed spec on xfs", faults)
	}
}

// reportAsListed returns the report of a run that skips all listed specs except that one.
func reportAsListed(configuration, except string) ginkgo.Report {
	report := ginkgo.Report{
		SpecReports: types.SpecReports{
			{LeafNodeType: types.NodeTypeReportAfterSuite, State: types.SpecStateSkipped},
		},
	}
	for spec := range reasons(configuration) {
		if spec != except {
			report.SpecReports = append(report.SpecReports,
				specReport(configuration, spec, types.SpecStateSkipped))
		}
	}
	return report
}

func specReport(configuration, spec string, state types.SpecState) types.SpecReport {
	container, leaf, _ := strings.Cut(spec, " ")
	return types.SpecReport{
		ContainerHierarchyTexts: []string{configuration, container},
		LeafNodeType:            types.NodeTypeIt,
		LeafNodeText:            leaf,
		State:                   state,
	}
}
