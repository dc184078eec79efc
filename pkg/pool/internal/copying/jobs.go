package copying

import (
	"context"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/job"
)

// Jobs are the copies of a pool that are under way, each with its progress.
type Jobs struct{ *job.Jobs[*copytree.Progress] }

// StartJobs returns the jobs of a pool, which end with the context.
func StartJobs(ctx context.Context) Jobs {
	return Jobs{job.Start(ctx, job.Kind[*copytree.Progress]{
		Noun:        "copy",
		NewProgress: func() *copytree.Progress { return &copytree.Progress{} },
	})}
}

// Count returns how many copies are under way, and how many bytes they have copied.
func (j Jobs) Count() (running int, bytes int64) {
	all := j.UnderWay()
	for _, w := range all {
		bytes += w.Progress.Stats().Bytes
	}
	return len(all), bytes
}
