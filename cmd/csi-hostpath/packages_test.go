package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/csi-hostpath/csi-hostpath/"

// goPackage is the output of `go list` for a package.
type goPackage struct {
	ImportPath string
	Imports    []string
}

// goPackages returns the packages of the module, without the module's prefix, and including
// packages that need a build tag.
func goPackages(t *testing.T) []goPackage {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports",
		"-tags=failpoint,e2e,vm,qemu,backup", "./...")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		packages = append(packages, p)
	}
}

// packageTable is the table of packages in docs/design.md.
type packageTable struct {
	driver []string // cmd and pkg, from the top
	noRPC  int      // from this row on, packages of driver have no gRPC and no CSI
	others []string // tests and tools
}

func readPackageTable(t *testing.T) packageTable {
	t.Helper()
	_, text, ok := strings.Cut(read(t, "docs/design.md"), "\n## Packages\n")
	if !ok {
		t.Fatal("docs/design.md has no section on packages")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var table packageTable
	rows := &table.driver
	row := regexp.MustCompile("^\\| `([^`]+)` \\|")
	for line := range strings.Lines(text) {
		switch match := row.FindStringSubmatch(line); {
		case strings.Contains(line, "no gRPC and no CSI"):
			table.noRPC = len(table.driver)
		case strings.Contains(line, "**tests and tools**"):
			rows = &table.others
		case match != nil && slices.Contains(*rows, match[1]):
			t.Errorf("docs/design.md has %s twice", match[1])
		case match != nil:
			*rows = append(*rows, match[1])
		}
	}
	if table.noRPC == 0 || len(table.others) == 0 {
		t.Fatalf("the table of packages is read as %+v", table)
	}
	return table
}

// matches says whether a row is for a package.
func matches(row, path string) bool {
	dir, all := strings.CutSuffix(row, "/...")
	return row == path || all && (path == dir || strings.HasPrefix(path, dir+"/"))
}

func TestEveryPackageHasOneRowInTheTableOfPackages(t *testing.T) {
	t.Chdir("../..")
	table, unused := readPackageTable(t), map[string]bool{}
	rows := slices.Concat(table.driver, table.others)
	for _, row := range rows {
		unused[row] = true
	}
	for _, p := range goPackages(t) {
		found := 0
		for _, row := range rows {
			if matches(row, p.ImportPath) {
				delete(unused, row)
				found++
			}
		}
		if found != 1 {
			t.Errorf("docs/design.md has %d rows for package %s, want 1", found, p.ImportPath)
		}
	}
	for row := range unused {
		t.Errorf("docs/design.md has a row for %s, which is no package", row)
	}
}

func TestImportsPointDownTheTableOfPackages(t *testing.T) {
	t.Chdir("../..")
	table := readPackageTable(t)
	for _, p := range goPackages(t) {
		at := slices.Index(table.driver, p.ImportPath)
		if at < 0 {
			continue // a test or a tool
		}
		for _, path := range p.Imports {
			if name, own := strings.CutPrefix(path, module); own {
				if to := slices.Index(table.driver, name); to <= at {
					t.Errorf("%s imports %s, which is not below it in docs/design.md", p.ImportPath, name)
				}
			}
			if at >= table.noRPC && (strings.HasPrefix(path, "google.golang.org/grpc") ||
				strings.HasPrefix(path, "github.com/container-storage-interface/")) {
				t.Errorf("%s imports %s", p.ImportPath, path)
			}
		}
	}
}

// depguard silently ignores rules for packages that do not exist.
func TestTheLinterNamesPackagesThatExist(t *testing.T) {
	t.Chdir("../..")
	config := read(t, ".golangci.yml")
	var named []string
	for _, match := range regexp.MustCompile(module+`([\w/-]+)`).FindAllStringSubmatch(config, -1) {
		named = append(named, match[1])
	}
	globs := regexp.MustCompile(`\*\*/pkg/\{?([\w,]+)\}?/\*\*`).FindAllStringSubmatch(config, -1)
	for _, match := range globs {
		for name := range strings.SplitSeq(match[1], ",") {
			named = append(named, "pkg/"+name)
		}
	}
	if len(named) < 5 {
		t.Errorf("only %q was found", named)
	}
	for _, dir := range named {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			t.Errorf(".golangci.yml names %s, which is no directory: %v", dir, err)
		}
	}
	_, services, _ := strings.Cut(config, `"!**/pkg/{`)
	services, _, _ = strings.Cut(services, "}")
	table := readPackageTable(t)
	for _, path := range table.driver[:table.noRPC] {
		below, isPkg := strings.CutPrefix(path, "pkg/")
		name, _, _ := strings.Cut(below, "/")
		if isPkg && !slices.Contains(strings.Split(services, ","), name) {
			t.Errorf(".golangci.yml lets %s not know gRPC, and docs/design.md does", path)
		}
	}
}

// The driver is root on its node. A client of the API, and the token for it, would make a node that
// was taken over worth more. What reads git repositories is a process without any right.
func TestDriverHasNoClientOfTheAPIAndNoGit(t *testing.T) {
	t.Chdir("../..")
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/csi-hostpath")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), module+"pkg/driver\n") {
		t.Errorf("the packages of the driver are read as %s", out)
	}
	for path := range strings.Lines(string(out)) {
		if strings.HasPrefix(path, "k8s.io/client-go") || strings.HasPrefix(path, module+"pkg/kube") ||
			strings.Contains(path, "go-git") {
			t.Errorf("the driver has %s", path)
		}
	}
}
