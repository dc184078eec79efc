package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build is a Dockerfile to build with buildah, without a registry.
type Build struct {
	Dockerfile string
	Context    string
	// Name is the image's full name, with a tag.
	Name string
	// Output is the archive to write.
	Output string
	// Args are build arguments, NAME=VALUE.
	Args []string
	// Cache keeps the base images.
	Cache    string
	Progress func(format string, args ...any)
	// Log gets what the build says.
	Log io.Writer
}

// Inside a build, Go finds the machine's caches here. /dev is made anew by the
// runtime for every step, so these mount points leave no trace in the image.
const (
	buildModules = "/dev/go/modules"
	buildCache   = "/dev/go/cache"
)

// insecurePolicy accepts the images that were made here.
const insecurePolicy = `{"default": [{"type": "insecureAcceptAnything"}]}`

// Run builds the image and writes its archive.
func (b Build) Run(ctx context.Context) error {
	dockerfile, err := os.ReadFile(b.Dockerfile)
	if err != nil {
		return err
	}
	bases, err := parseBases(string(dockerfile))
	if err != nil {
		return fmt.Errorf("%s: %w", b.Dockerfile, err)
	}
	if err := os.MkdirAll(b.store(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(b.policy(), []byte(insecurePolicy), 0o644); err != nil {
		return err
	}
	volumes := []string{"/etc/apt:/etc/apt:ro"}
	for _, base := range bases {
		if err := b.ensureBase(ctx, base); err != nil {
			return err
		}
		if base.withGo {
			caches, err := b.goCaches(ctx)
			if err != nil {
				return err
			}
			volumes = append(volumes, caches...)
		}
	}
	return b.build(ctx, volumes)
}

func (b Build) build(ctx context.Context, volumes []string) error {
	args := []string{
		"build", "--pull-never", "--isolation", "oci", "--network", "host", "--layers=false",
		"--file", b.Dockerfile, "--tag", b.stored(),
	}
	for _, volume := range volumes {
		args = append(args, "--volume", volume)
	}
	for _, arg := range b.Args {
		args = append(args, "--build-arg", arg)
	}
	b.Progress("building %s", b.Name)
	if err := b.buildah(ctx, append(args, b.Context)...); err != nil {
		return err
	}
	// The archive cannot be replaced in place.
	if err := os.Remove(b.Output); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := b.buildah(ctx, "push", b.stored(), "docker-archive:"+b.Output+":"+b.Name)
	return errors.Join(err, b.buildah(ctx, "rmi", "--force", b.stored()))
}

// stored is the image's name in the store, which builds of other processes share.
func (b Build) stored() string { return fmt.Sprintf("%s-%d", b.Name, os.Getpid()) }

// ensureBase imports a base image, unless it is there, of the same Go.
func (b Build) ensureBase(ctx context.Context, base base) error {
	suite := base.suite
	if suite == "" {
		suite = ownSuite()
	}
	key := suite
	var toolchain map[string]string
	if base.withGo {
		var err error
		if toolchain, err = goEnv(ctx, "GOVERSION", "GOROOT"); err != nil {
			return err
		}
		if err := base.checkGo(toolchain["GOVERSION"]); err != nil {
			return err
		}
		key += " " + toolchain["GOVERSION"]
	}
	stamp := filepath.Join(b.Cache, "buildah", "have-"+strings.ReplaceAll(base.reference, "/", "_"))
	if have, err := os.ReadFile(stamp); err == nil && string(have) == key {
		return nil
	}
	root, err := makeDebian(ctx, b.Cache, suite, b.Progress)
	if err != nil {
		return err
	}
	b.Progress("making the base image %s", base.reference)
	if err := b.importBase(ctx, base, root, toolchain["GOROOT"]); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(key), 0o644)
}

// importBase hands the base image to buildah under the name "localhost/…", which
// it tries for every short name.
func (b Build) importBase(ctx context.Context, base base, root, goroot string) error {
	archive := filepath.Join(b.Cache, "buildah", "base.tar")
	defer func() { _ = os.Remove(archive) }()
	config := Config{Name: "localhost/" + base.reference, Cmd: []string{"bash"}}
	if base.withGo {
		config.Env = []string{
			"PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"GOPATH=/go", "GOTOOLCHAIN=local",
			// All that a build needs is downloaded before it.
			"GOPROXY=off", "GOMODCACHE=" + buildModules, "GOCACHE=" + buildCache,
		}
	}
	err := Write(archive, config, func(l *Layer) error {
		if err := l.Tree("/", root); err != nil || !base.withGo {
			return err
		}
		return l.Tree("/usr/local/go", goroot)
	})
	if err != nil {
		return err
	}
	return b.buildah(ctx, "pull", "--quiet", "docker-archive:"+archive)
}

// goCaches downloads what the context's module needs, and returns the mounts that
// let the build use it and the machine's build cache.
func (b Build) goCaches(ctx context.Context) ([]string, error) {
	if _, err := os.Stat(filepath.Join(b.Context, "go.mod")); err == nil {
		cmd := exec.CommandContext(ctx, "go", "mod", "download")
		cmd.Dir = b.Context
		if output, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go mod download in %s: %w: %s", b.Context, err, tail(output))
		}
	}
	caches, err := goEnv(ctx, "GOMODCACHE", "GOCACHE")
	if err != nil {
		return nil, err
	}
	return []string{
		caches["GOMODCACHE"] + ":" + buildModules,
		caches["GOCACHE"] + ":" + buildCache,
	}, nil
}

func goEnv(ctx context.Context, names ...string) (map[string]string, error) {
	output, err := exec.CommandContext(ctx, "go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w (install Go and put it in PATH)", err)
	}
	values := map[string]string{}
	for i, value := range strings.Split(strings.TrimRight(string(output), "\n"), "\n") {
		if i < len(names) {
			values[names[i]] = value
		}
	}
	return values, nil
}

func (b Build) store() string  { return filepath.Join(b.Cache, "buildah", "store") }
func (b Build) policy() string { return filepath.Join(b.Cache, "buildah", "policy.json") }

// buildah runs one command of it on a store of its own, in a mount namespace that
// takes along what it leaves mounted.
func (b Build) buildah(ctx context.Context, args ...string) error {
	runRoot, err := os.MkdirTemp("", "buildah-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(runRoot) }()
	global := []string{
		"buildah",
		"--root",
		b.store(),
		"--runroot",
		runRoot,
		"--storage-driver",
		"overlay",
	}
	command := args[0]
	if command != "rmi" {
		args = append([]string{command, "--signature-policy", b.policy()}, args[1:]...)
	}
	cmd := privately(ctx, append(global, args...)...)
	var said strings.Builder
	cmd.Stdout = io.MultiWriter(b.Log, &said)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("buildah %s: %w: %s", command, err, tail([]byte(said.String())))
	}
	return nil
}
