package pool

import (
	"cmp"
	"context"

	"golang.org/x/time/rate"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
)

// throttle keeps the copies of a pool from taking the disk away from pods.
type throttle struct {
	turns   chan struct{}    // as many as may copy at a time
	limiter copytree.Limiter // of all of them together; nil is none
}

func newThrottle(o Options) throttle {
	t := throttle{turns: make(chan struct{}, cmp.Or(o.MaxCopies, DefaultMaxCopies))}
	if o.CopyBytesPerSecond > 0 {
		t.limiter = rate.NewLimiter(rate.Limit(o.CopyBytesPerSecond), copytree.MaxChunk)
	}
	return t
}

// enter waits until a copy may begin; leave lets the next one. Errors: the context's cause.
func (t throttle) enter(ctx context.Context) (leave func(), err error) {
	select {
	case t.turns <- struct{}{}:
		return func() { <-t.turns }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
