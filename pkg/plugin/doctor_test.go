package plugin

import (
	"fmt"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/doctor"
)

func TestDoctorSaysOneFaultOfManyNodesOnce(t *testing.T) {
	var findings []doctor.Finding
	for i := range 25 {
		findings = append(findings, doctor.Finding{
			Severity: doctor.Error, Check: "pools", Subject: fmt.Sprintf("node %d", i),
			Message: "is not open", Remedy: "mount the disk",
		})
	}
	var out strings.Builder
	p := &plugin{Streams: Streams{Out: &out}}
	if err := p.printFindings(findings, "", true); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], "node 0: is not open") ||
		!strings.Contains(lines[1], "also: node 1, node 2, ") ||
		!strings.HasSuffix(lines[1], ", node 20 and 4 more") ||
		!strings.Contains(lines[2], "do: mount the disk") {
		t.Errorf("got:\n%s", out.String())
	}
	out.Reset()
	if err := p.printFindings(findings, "json", true); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "mount the disk"); n != len(findings) {
		t.Errorf("JSON has %d findings, want each of %d", n, len(findings))
	}
}
