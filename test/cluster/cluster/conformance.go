package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/component"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/image"
)

// Suite is Kubernetes' own tests of storage drivers, as programs.
type Suite struct {
	// Tests is e2e.test with the suites for storage drivers.
	Tests string
	// Ginkgo runs it in several processes.
	Ginkgo string
	// Populator is the populator of volumes that one spec deploys.
	Populator string
	// Version is that of Kubernetes.
	Version string
}

// BuildSuite builds that of a version of Kubernetes, unless the cache has it. Kubernetes and cache
// are as in Options. Progress may be nil.
func BuildSuite(
	ctx context.Context, kubernetes, cache string, progress func(format string, args ...any),
) (Suite, error) {
	kubernetes = DefaultedKubernetes(kubernetes)
	if !slices.Contains(KubernetesVersions(), kubernetes) {
		return Suite{}, noSuchKubernetes(kubernetes)
	}
	built, err := buildBeside(ctx, cache, component.Conformance(kubernetes), progress)
	return Suite{
		Tests: built.Program("e2e.test"), Ginkgo: built.Program("ginkgo"),
		Populator: built.Program("hello-populator"), Version: built.Version,
	}, err
}

// suiteImages are those that the suite's pods have (k8s.io/kubernetes
// test/utils/image/manifest.go), beside agnhost, which every node has.
type suiteImages struct {
	busybox, glibc, nginx string
}

const (
	suiteRepository = "registry.k8s.io/e2e-test-images/"
	// suitePopulator is in the manifests of the suite's populator.
	suitePopulator = "registry.k8s.io/sig-storage/hello-populator:v1.0.1"
)

func (s Suite) images() suiteImages {
	if strings.HasPrefix(s.Version, "v1.36.") {
		return suiteImages{busybox: "busybox:1.37.0-1", glibc: "glibc-dns-testing:2.0.0", nginx: "nginx:1.15-4"}
	}
	return suiteImages{busybox: "busybox:1.37.0-2", glibc: "glibc-dns-testing:2.1.1", nginx: "nginx:1.27.0-2"}
}

// LoadSuiteImages gives every node the images of the suite, with this machine's busybox for the
// tools in them. The suites for storage drivers use only such tools of the images with glibc
// and nginx, and GNU's dd. Busybox' shell would run its own dd, so another shell comes with it.
func (c *Cluster) LoadSuiteImages(ctx context.Context, suite Suite) error {
	folder, err := os.MkdirTemp("", "suite-images-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	names := suite.images()
	for i, im := range []struct {
		config          image.Config
		tools, programs []string
	}{
		{config: shell(names.busybox)},
		{config: shell(names.glibc), tools: []string{"sh", "dd"}},
		{config: shell(names.nginx)},
		{
			config: image.Config{
				Name: suitePopulator, Entrypoint: []string{"/" + filepath.Base(suite.Populator)},
			},
			programs: []string{suite.Populator},
		},
	} {
		path := filepath.Join(folder, strconv.Itoa(i)+".tar")
		err := image.BusyboxWith(path, im.config, im.tools, im.programs...)
		if err := errors.Join(err, c.Load(ctx, path)); err != nil {
			return err
		}
	}
	return nil
}

func shell(name string) image.Config {
	return image.Config{Name: suiteRepository + name, Cmd: []string{"sh"}}
}

// buildBeside builds what a cluster itself does not need.
func buildBeside(
	ctx context.Context, cache string, c component.Component,
	progress func(format string, args ...any),
) (component.Built, error) {
	if progress == nil {
		progress = func(string, ...any) {}
	}
	cache, err := CacheFolder(cache)
	if err != nil {
		return component.Built{}, err
	}
	root, err := component.ModuleRoot(ctx)
	if err != nil {
		return component.Built{}, err
	}
	source := filepath.Join(root, "test", "cluster", "components")
	return component.Builder{Source: source, Cache: cache, Progress: progress}.Build(ctx, c)
}

// PackBusybox writes an image archive of this machine's busybox under a name with a tag, with
// static programs in / beside it.
func PackBusybox(output, name string, programs ...string) error {
	return image.Busybox(output, image.Config{Name: name, Cmd: []string{"sh"}}, programs...)
}
