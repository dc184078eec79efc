package cluster

import (
	"context"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/component"
)

// BuildObjectStore builds an S3 server (versitygw), unless the cache has it, and returns its
// program. Cache is as in Options. Progress may be nil.
func BuildObjectStore(
	ctx context.Context, cache string, progress func(format string, args ...any),
) (string, error) {
	built, err := buildBeside(ctx, cache, component.ObjectStore(), progress)
	return built.Program("versitygw"), err
}
