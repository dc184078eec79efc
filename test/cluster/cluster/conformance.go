package cluster

import (
	"context"
	"path/filepath"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/component"
	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/image"
)

// Suite is Kubernetes' own tests of storage drivers, as programs.
type Suite struct {
	// Tests is e2e.test with the suites for storage drivers.
	Tests string
	// Ginkgo runs it in several processes.
	Ginkgo string
	// Version is that of Kubernetes.
	Version string
}

// BuildSuite builds it, unless the cache has it. Cache is as in Options. Progress may be nil.
func BuildSuite(
	ctx context.Context, cache string, progress func(format string, args ...any),
) (Suite, error) {
	if progress == nil {
		progress = func(string, ...any) {}
	}
	cache, err := CacheFolder(cache)
	if err != nil {
		return Suite{}, err
	}
	root, err := component.ModuleRoot(ctx)
	if err != nil {
		return Suite{}, err
	}
	source := filepath.Join(root, "test", "cluster", "components")
	builder := component.Builder{Source: source, Cache: cache, Progress: progress}
	built, err := builder.Build(ctx, component.Conformance())
	return Suite{
		Tests: built.Program("e2e.test"), Ginkgo: built.Program("ginkgo"), Version: built.Version,
	}, err
}

// PackBusybox writes an image archive of this machine's busybox under a name with a tag.
func PackBusybox(output, name string) error {
	return image.Busybox(output, image.Config{Name: name, Cmd: []string{"sh"}})
}
