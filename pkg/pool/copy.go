package pool

import (
	"context"
	"fmt"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/copying"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// activeCopy is a copy that is under way, with the shared lock of its source.
type activeCopy struct {
	*copying.Copy

	pool *Pool // the pool that gets the copy
	from *copySource
}

// beginCopy waits until this pool may make a copy, and only then locks the source. During the wait
// the source may be staged, expanded and deleted; the copy has the content that the source has
// after the wait. A source that cannot be copied is refused before the wait. The caller calls end.
func (p *Pool) beginCopy(
	ctx context.Context, lockSource func() (*copySource, error), progress *copytree.Progress,
) (*activeCopy, error) {
	first, err := lockSource()
	if err != nil {
		return nil, err
	}
	first.release()
	method := p.copier.MethodFor(first.Spec)
	begun, err := p.copier.Begin(ctx, method, progress)
	if err != nil {
		return nil, err
	}
	from, err := lockSource()
	if err == nil && p.copier.MethodFor(from.Spec) != method {
		from.release()
		err = fmt.Errorf("%w: %s was deleted and created again with another backing meanwhile: try again",
			volume.ErrBusy, from.Name)
	}
	if err != nil {
		begun.End()
		return nil, err
	}
	if method != copying.ByFilesystem { // which takes no time
		progress.Expect(from.contentBytes())
	}
	return &activeCopy{Copy: begun, pool: p, from: from}, nil
}

// end releases the source and lets the next copy begin.
func (c *activeCopy) end() {
	c.from.release()
	c.End()
}
