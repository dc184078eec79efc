package tracker

import (
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/tools/release/debian"
)

func TestCheckKnowsFixedOpenAndUnaffected(t *testing.T) {
	data, err := Read(strings.NewReader(`{"glibc": {
		"CVE-1": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "2.36-9+deb12u14"}}},
		"CVE-2": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "2.36-9+deb12u15"}}},
		"CVE-3": {"releases": {"bookworm": {"status": "open", "urgency": "low"}}},
		"CVE-4": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "0"}}},
		"CVE-5": {"releases": {"trixie": {"status": "open"}}}
	}, "bash": {"CVE-6": {"releases": {"bookworm": {"status": "open"}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	findings, err := Check(t.Context(), data, debian.Lock{Suite: "bookworm", Packages: []debian.Package{
		{Name: "libc6", Architecture: "amd64", Source: "glibc", SourceVersion: "2.36-9+deb12u14"},
		{Name: "libc6", Architecture: "arm64", Source: "glibc", SourceVersion: "2.36-9+deb12u14"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, finding := range findings {
		got = append(got, finding.Name+" "+finding.Fixed)
	}
	if want := "CVE-2 2.36-9+deb12u15|CVE-3 "; strings.Join(got, "|") != want {
		t.Errorf("findings: %q, want %q", got, want)
	}
}
