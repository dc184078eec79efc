package component

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Builder builds into a cache.
type Builder struct {
	// Source is the folder with one module a component.
	Source string
	// Cache is made when it does not exist.
	Cache    string
	Progress func(format string, args ...any)
}

// Built is a component in the cache.
type Built struct {
	Component
	Version string
	// Key changes when anything that the programs are made from does.
	Key string
	// Folder holds the programs.
	Folder string
}

// Program returns the path of a built program.
func (b Built) Program(name string) string { return filepath.Join(b.Folder, name) }

// Build returns the component from the cache, or builds it first.
func (b Builder) Build(ctx context.Context, c Component) (Built, error) {
	built, err := b.locate(ctx, c)
	if err != nil {
		return Built{}, err
	}
	if _, err := os.Stat(built.Folder); err == nil {
		return built, nil
	}
	return built, b.buildInto(ctx, built)
}

// IsCached says whether Build has nothing to build.
func (b Builder) IsCached(ctx context.Context, c Component) (bool, error) {
	built, err := b.locate(ctx, c)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(built.Folder)
	return err == nil, nil
}

// locate finds out where in the cache the component belongs.
func (b Builder) locate(ctx context.Context, c Component) (Built, error) {
	module := filepath.Join(b.Source, c.pins())
	version, err := goOutput(ctx, module, "list", "-m", "-f", "{{.Version}}", c.Module)
	if err != nil {
		return Built{}, err
	}
	key, err := b.key(ctx, c, version)
	return Built{
		Component: c,
		Version:   version,
		Key:       key,
		Folder:    filepath.Join(b.Cache, "components", c.Name+"-"+key),
	}, err
}

// ModuleFolder returns where the go command keeps the source of one of the
// component's modules, for what is not a program.
func (b Builder) ModuleFolder(ctx context.Context, c Component, module string) (string, error) {
	return goOutput(ctx, filepath.Join(b.Source, c.pins()), "list", "-m", "-f", "{{.Dir}}", module)
}

// key hashes everything that the programs depend on.
func (b Builder) key(ctx context.Context, c Component, version string) (string, error) {
	hash := sha256.New()
	for _, name := range append([]string{"go.mod", "go.sum"}, c.Sources...) {
		data, err := os.ReadFile(filepath.Join(b.Source, c.pins(), name))
		if err != nil {
			return "", fmt.Errorf("component %s: %w", c.Name, err)
		}
		_, _ = fmt.Fprintf(hash, "%d\n%s", len(data), data)
	}
	toolchain, err := goOutput(ctx, b.Source, "env", "GOVERSION", "GOARCH")
	if err != nil {
		return "", err
	}
	_, _ = fmt.Fprintf(hash, "%s\n%s\n%v%s", toolchain, c.linkFlags(version), c.Programs, c.Tags)
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// buildInto builds beside the final folder and renames: an interrupted build is
// never taken for a finished one.
func (b Builder) buildInto(ctx context.Context, built Built) error {
	parent := filepath.Dir(built.Folder)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(parent, "building-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(staging) }()
	started := time.Now()
	b.Progress("building %s %s (only the first time; Kubernetes takes several minutes)", built.Name,
		built.Version)
	done := b.heartbeat(built.Name, started)
	defer done()
	for _, program := range built.Programs {
		if err := b.buildProgram(ctx, built, program, filepath.Join(staging, program.Name)); err != nil {
			return err
		}
	}
	if err := os.Chmod(staging, 0o755); err != nil {
		return err
	}
	if err := os.Rename(staging, built.Folder); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	b.Progress("built %s in %s", built.Name, time.Since(started).Round(time.Second))
	return nil
}

func (b Builder) buildProgram(
	ctx context.Context, built Built, program Program, output string,
) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-mod=readonly", "-buildvcs=false",
		"-tags", built.Tags, "-ldflags", built.linkFlags(built.Version), "-o", output, program.Package)
	cmd.Dir = filepath.Join(b.Source, built.pins())
	cmd.Env = moduleEnv()
	if built.Tags != "" {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w:\n%s", program.Package, err, said)
	}
	return nil
}

// heartbeat shows that a long build goes on, until the returned function is called.
func (b Builder) heartbeat(name string, started time.Time) (stop func()) {
	ticker := time.NewTicker(30 * time.Second)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				b.Progress("still building %s (%s)", name, time.Since(started).Round(time.Second))
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
	}
}

// moduleEnv makes static programs, and keeps a workspace file or flags of the
// caller's from changing what the component's go.mod pins.
func moduleEnv() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
}

func goOutput(ctx context.Context, folder string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = folder
	cmd.Env = moduleEnv()
	output, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return "", fmt.Errorf("go %s in %s: %w: %s", strings.Join(args, " "), folder, err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("go %s: %w (install Go and put it in PATH)", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(output)), nil
}

// BuildOwn builds a main package of the driver's module into output; the go
// command's own cache makes a second time fast.
func BuildOwn(ctx context.Context, moduleRoot, pkg, output string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w",
		"-o", output, pkg)
	cmd.Dir = moduleRoot
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w:\n%s", pkg, err, said)
	}
	return nil
}

// ModuleRoot returns the folder of the module that the current directory is in.
func ModuleRoot(ctx context.Context) (string, error) {
	file, err := goOutput(ctx, ".", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	root := filepath.Dir(file)
	if _, err := os.Stat(filepath.Join(root, "test", "cluster", "components")); err != nil {
		return "", fmt.Errorf(
			"run this inside a checkout of csi-hostpath, whose test/cluster/components is needed: %w",
			err,
		)
	}
	return root, nil
}
