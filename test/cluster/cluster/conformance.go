package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"

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

// BuildSuite builds it, unless the cache has it. Cache is as in Options. Progress may be nil.
func BuildSuite(
	ctx context.Context, cache string, progress func(format string, args ...any),
) (Suite, error) {
	built, err := buildBeside(ctx, cache, component.Conformance(), progress)
	return Suite{
		Tests: built.Program("e2e.test"), Ginkgo: built.Program("ginkgo"),
		Populator: built.Program("hello-populator"), Version: built.Version,
	}, err
}

// Images that the suite's pods have (k8s.io/kubernetes test/utils/image/manifest.go, and the
// manifests of its populator), beside those that every node has.
const (
	suiteAgnhost   = agnhostRepository + ":2.66.1"
	suiteBusybox   = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2"
	suiteGlibc     = "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.1.1"
	suiteNginx     = "registry.k8s.io/e2e-test-images/nginx:1.27.0-2"
	suitePopulator = "registry.k8s.io/sig-storage/hello-populator:v1.0.1"
)

// LoadSuiteImages gives every node the images of the suite, with this machine's busybox for the
// tools in them. The suites for storage drivers use only such tools of the images with glibc
// and nginx, and GNU's dd. Busybox' shell would run its own dd, so another shell comes with it.
func (c *Cluster) LoadSuiteImages(ctx context.Context, suite Suite) error {
	folder, err := os.MkdirTemp("", "suite-images-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	agnhost := filepath.Join(c.Programs(), "agnhost")
	for i, im := range []struct {
		config          image.Config
		tools, programs []string
	}{
		{config: agnhostConfig(suiteAgnhost), programs: []string{agnhost}},
		{config: image.Config{Name: suiteBusybox, Cmd: []string{"sh"}}},
		{config: image.Config{Name: suiteGlibc, Cmd: []string{"sh"}}, tools: []string{"sh", "dd"}},
		{config: image.Config{Name: suiteNginx, Cmd: []string{"sh"}}},
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
