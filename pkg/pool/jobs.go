package pool

import (
	"context"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/job"
)

// startCopies returns the copies of a pool, which end with the context.
func startCopies(ctx context.Context) *job.Jobs[*copytree.Progress] {
	return job.Start(ctx, job.Kind[*copytree.Progress]{
		Noun:        "copy",
		NewProgress: func() *copytree.Progress { return &copytree.Progress{} },
	})
}

// countCopies returns how many copies are under way, and how many bytes they have copied.
func (p *Pool) countCopies() (running int, bytes int64) {
	all := p.jobs.Progress()
	for _, progress := range all {
		bytes += progress.Stats().Bytes
	}
	return len(all), bytes
}
