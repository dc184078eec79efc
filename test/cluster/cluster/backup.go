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

// Velero is the backup program.
type Velero struct {
	// Program is its command line, its server and its node agent, Helper waits in the pods that it
	// restores, Plugin is for S3.
	Program, Helper, Plugin string
	Version                 string
}

// BuildVelero builds it, unless the cache has it. Cache is as in Options. Progress may be nil.
func BuildVelero(
	ctx context.Context, cache string, progress func(format string, args ...any),
) (Velero, error) {
	built, err := buildBeside(ctx, cache, component.Velero(), progress)
	return Velero{
		Program: built.Program("velero"), Helper: built.Program("velero-restore-helper"),
		Plugin: built.Program("velero-plugin-for-aws"), Version: built.Version,
	}, err
}
