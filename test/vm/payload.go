package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// payload is a directory of what the tests need, which becomes the work disk.
type payload struct {
	dir   string
	tests []binary
}

// binary is the compiled tests of a package, or a program.
type binary struct {
	importPath string // empty for a program
	// name is relative to the module: pkg/pool.
	name string
	// file is below the payload's bin, and dir, in which it runs, below the payload.
	file, dir string
}

// goPackage is what `go list -json` tells.
type goPackage struct {
	ImportPath   string   `json:"importPath"`
	Dir          string   `json:"dir"`
	TestGoFiles  []string `json:"testGoFiles"`
	XTestGoFiles []string `json:"xTestGoFiles"`
	Module       struct {
		Path string `json:"path"`
		Dir  string `json:"dir"`
	} `json:"module"`
}

// buildPayload compiles tests and programs. A test runs in src/PACKAGE, beside its testdata, as go
// test would have it.
func buildPayload(ctx context.Context, config Config, dir string) (payload, error) {
	p := payload{dir: filepath.Join(dir, "payload")}
	if err := errors.Join(
		os.MkdirAll(filepath.Join(p.dir, "bin"), 0o755),
		os.Mkdir(filepath.Join(p.dir, "tmp"), 0o755),
	); err != nil {
		return p, err
	}
	tags := append([]string{"vm"}, config.Tags...)
	packages, err := listPackages(ctx, tags, config.Packages)
	if err != nil {
		return p, err
	}
	for i, pkg := range packages {
		name := strings.TrimPrefix(pkg.ImportPath, pkg.Module.Path+"/")
		test := binary{
			importPath: pkg.ImportPath,
			name:       name,
			file:       strconv.Itoa(i) + ".test",
			dir:        filepath.Join("src", name),
		}
		if err := p.add(ctx, tags, test, pkg); err != nil {
			return p, err
		}
		p.tests = append(p.tests, test)
	}
	for _, program := range config.Programs {
		if err := goBuild(
			ctx,
			tags,
			filepath.Join(p.dir, "bin", filepath.Base(program)),
			program,
		); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p payload) add(ctx context.Context, tags []string, test binary, pkg goPackage) error {
	err := goRun(ctx, "test", "-c", "-tags", strings.Join(tags, ","), "-o",
		filepath.Join(p.dir, "bin", test.file), pkg.ImportPath)
	if err != nil {
		return err
	}
	src := filepath.Join(p.dir, test.dir)
	if err := os.MkdirAll(src, 0o755); err != nil {
		return err
	}
	testdata := filepath.Join(pkg.Dir, "testdata")
	if _, err := os.Stat(testdata); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return os.CopyFS(filepath.Join(src, "testdata"), os.DirFS(testdata))
}

// listPackages leaves out packages without tests. Patterns that none with tests matches are an
// error: it would pass without having tested.
func listPackages(ctx context.Context, tags, patterns []string) ([]goPackage, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	out, err := output(
		ctx,
		root,
		nil,
		"go",
		append([]string{"list", "-json", "-tags", strings.Join(tags, ","), "--"}, patterns...)...)
	if err != nil {
		return nil, err
	}
	var packages []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); {
		var pkg goPackage
		if err := decoder.Decode(&pkg); err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if len(pkg.TestGoFiles)+len(pkg.XTestGoFiles) > 0 {
			packages = append(packages, pkg)
		}
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("no tests in %v", patterns)
	}
	return packages, nil
}

func goBuild(ctx context.Context, tags []string, file, pkg string) error {
	return goRun(ctx, "build", "-buildvcs=false", "-ldflags", "-s -w", "-tags",
		strings.Join(tags, ","), "-o", file, pkg)
}

// goRun runs the go command in the module's root. What it builds needs no library of the guest's.
func goRun(ctx context.Context, args ...string) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	_, err = output(ctx, root, []string{"CGO_ENABLED=0"}, "go", args...)
	return err
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := output(ctx, "", nil, "go", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	file := strings.TrimSpace(string(out))
	if filepath.Base(file) != "go.mod" {
		return "", errors.New("not inside this module: its tests are built from source")
	}
	return filepath.Dir(file), nil
}
