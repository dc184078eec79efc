package cluster

import (
	"context"
	"strings"

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

// Velero has the paths of Velero's programs, and its version, such as "1.18.3".
type Velero struct {
	// Programs are what Velero's image has in /; Plugin is that for S3; CLI is one of Programs.
	Programs    []string
	Plugin, CLI string
	Version     string
}

// BuildVelero builds Velero, unless the cache has it. Cache is as in Options. Progress may be nil.
func BuildVelero(
	ctx context.Context, cache string, progress func(format string, args ...any),
) (Velero, error) {
	built, err := buildBeside(ctx, cache, component.Velero(), progress)
	v := Velero{
		Plugin: built.Program("velero-plugin-for-aws"), CLI: built.Program("velero"),
		Version: strings.TrimPrefix(built.Version, "v"),
	}
	for _, name := range []string{"velero", "velero-helper", "velero-restore-helper"} {
		v.Programs = append(v.Programs, built.Program(name))
	}
	return v, err
}
