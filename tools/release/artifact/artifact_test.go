package artifact

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"

	"github.com/csi-hostpath/csi-hostpath/tools/release/debian"
)

const changelog = `# Changelog

## [Unreleased]

### Added

- new

## [0.2.0] - 2026-12-01

### Fixed

- old

## [0.1.0] - 2026-11-01
`

func TestNotesAreTheSectionOfTheVersion(t *testing.T) {
	for version, want := range map[string]string{
		"0.2.0":      "### Fixed\n\n- old",
		"0.3.0-rc.1": "### Added\n\n- new",
	} {
		if got, err := notes(changelog, version); err != nil || got != want {
			t.Errorf("notes of %s: %q, %v", version, got, err)
		}
	}
	for version, want := range map[string]string{
		"0.3.0":  "no section [0.3.0]",
		"0.1.0":  "is empty",
		"v0.2.0": "want one like",
	} {
		if _, err := notes(changelog, version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("notes of %s: %v, want: %s", version, err, want)
		}
	}
}

// The page of a release is not in the folder of CHANGELOG.md.
func TestLinksOfNotesAreThoseOfTheTag(t *testing.T) {
	const tag = Home + "/blob/v0.2.0/"
	for text, want := range map[string]string{
		"see [git](docs/git.md#rules).":   "see [git](" + tag + "docs/git.md#rules).",
		"[a](README.md), [b](./LICENSE)":  "[a](" + tag + "README.md), [b](" + tag + "LICENSE)",
		"[above](#added)":                 "[above](" + tag + "CHANGELOG.md#added)",
		"[git]: docs/git.md":              "[git]: " + tag + "docs/git.md",
		"[SemVer](https://semver.org/#a)": "[SemVer](https://semver.org/#a)",
		"f(x) of [none]":                  "f(x) of [none]",
	} {
		got, err := notes("## [0.2.0]\n\n"+text+"\n\n## [0.1.0]\n\n[old](docs/git.md)", "0.2.0")
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := notes("## [0.2.0]\n\n[bad](%zz)", "0.2.0"); err == nil {
		t.Error("a link that is no address: no error")
	}
}

func source(t *testing.T) Source {
	t.Helper()
	return Source{
		Folder: t.TempDir(), Version: "0.2.0", Commit: strings.Repeat("a", 40),
		Time: time.Unix(1_700_000_000, 0).UTC(),
	}
}

func TestKrewManifestHasEachArchive(t *testing.T) {
	s := source(t)
	folder := s.Path(pluginFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	template := "# VERSION is filled in\napiVersion: v1\nversion: VERSION\n" +
		"uri: URL/kubectl-hostpath_VERSION_linux_amd64.tar.gz\nsha256: SHA256_linux_amd64\n"
	write := func(content string) {
		if err := os.WriteFile(filepath.Join(folder, "hostpath.yaml"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(template)
	archives := []PluginArchive{{Program: Program{OS: "linux", Arch: "amd64"}, Content: []byte("x")}}
	got, err := s.KrewManifest(archives)
	want := "apiVersion: v1\nversion: v0.2.0\n" +
		"uri: " + Home + "/releases/download/v0.2.0/kubectl-hostpath_0.2.0_linux_amd64.tar.gz\n" +
		"sha256: " + sum([]byte("x")) + "\n"
	if err != nil || string(got) != want {
		t.Errorf("manifest: %v\n%s\nwant:\n%s", err, got, want)
	}
	write(template + "sha256: SHA256_plan9_amd64\n")
	if _, err := s.KrewManifest(archives); err == nil {
		t.Error("a platform without an archive is in the manifest")
	}
}

func TestSBOMIsValidAndHasModulesAndPackages(t *testing.T) {
	program := Program{Build: &buildinfo.BuildInfo{
		GoVersion: "go1.26.8", Deps: []*debug.Module{{Path: "golang.org/x/sys", Version: "v0.49.0"}},
	}}
	packages := []debian.Package{{
		Name: "libc6", Architecture: "amd64", Version: "2.36-9+deb12u14", Source: "glibc",
	}}
	s := source(t)
	content, err := s.SBOM("image", []Program{program, program}, packages)
	if err != nil {
		t.Fatal(err)
	}
	document, err := spdxjson.Read(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(document); err != nil {
		t.Error(err)
	}
	var names []string
	for _, pkg := range document.Packages {
		names = append(names, pkg.PackageName+" "+pkg.PackageVersion)
	}
	want := "csi-hostpath 0.2.0|libc6 2.36-9+deb12u14|golang.org/x/sys v0.49.0|stdlib 1.26.8"
	if got := strings.Join(names, "|"); got != want {
		t.Errorf("packages: %s, want %s", got, want)
	}
	again, err := s.SBOM("image", []Program{program, program}, packages)
	if err != nil || !bytes.Equal(content, again) {
		t.Errorf("the same twice gives two documents (%v)", err)
	}
}

func TestProvenanceNamesCommitAndSubjects(t *testing.T) {
	content, err := source(t).Provenance([]Subject{{Name: "a.tgz", SHA256: "00"}}, debian.Lock{},
		Builder{ID: "me"})
	if err != nil {
		t.Fatal(err)
	}
	var got statement
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	commit := got.Predicate.BuildDefinition.ResolvedDependencies[0].Digest["gitCommit"]
	if got.Subject[0].Digest["sha256"] != "00" || commit != strings.Repeat("a", 40) ||
		got.Predicate.RunDetails.Builder["id"] != "me" {
		t.Errorf("statement: %s", content)
	}
}

func TestReleaseIsMadeOfACommit(t *testing.T) {
	s := source(t)
	s.Dirty = true
	release := Release{Source: s, Folder: filepath.Join(t.TempDir(), "out")}
	if err := release.Write(t.Context()); err == nil || !strings.Contains(err.Error(), "commit") {
		t.Errorf("a release of a checkout with changes: %v", err)
	}
}

func TestSourceNeedsAVersion(t *testing.T) {
	for _, version := range []string{"", "unknown"} {
		if _, err := NewSource(t.Context(), t.TempDir(), version); err == nil {
			t.Errorf("version %q is accepted", version)
		}
	}
}

func TestSourceTakesTheTimeThatItIsGiven(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	s, err := NewSource(t.Context(), t.TempDir(), "0.1.0")
	if err != nil || s.Time.Unix() != 1_700_000_000 {
		t.Errorf("time: %s, %v", s.Time, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, err := NewSource(t.Context(), t.TempDir(), "0.1.0"); err == nil {
		t.Error("a time that is no number is accepted")
	}
}
