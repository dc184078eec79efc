package tracker

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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

func TestReachDoesNotWaitForAServerThatIsSilent(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/silent":
			<-release
		case "/missing":
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	defer close(release)
	if err := Reach(t.Context(), server.URL+"/there"); err != nil {
		t.Error(err)
	}
	err := Reach(t.Context(), server.URL+"/missing")
	if err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("a page that is missing: %v", err)
	}
	err = reach(t.Context(), server.URL+"/silent", 100*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "/silent does not answer within 100ms") {
		t.Errorf("a server that is silent: %v", err)
	}
}
