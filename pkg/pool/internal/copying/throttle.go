package copying

import (
	"context"

	"golang.org/x/time/rate"

	"github.com/csi-hostpath/csi-hostpath/pkg/copytree"
)

// Throttle keeps the copies of a pool from taking the disk away from pods.
type Throttle struct {
	// Limiter is the rate of all copies together; nil is none.
	Limiter copytree.Limiter

	slots chan struct{} // as many as may copy at a time
}

// NewThrottle admits that many copies at a time. The rate is that of all copies together; 0 is as
// fast as they can.
func NewThrottle(maxCopies int, bytesPerSecond int64) Throttle {
	t := Throttle{slots: make(chan struct{}, maxCopies)}
	if bytesPerSecond > 0 {
		t.Limiter = rate.NewLimiter(rate.Limit(bytesPerSecond), copytree.MaxChunk)
	}
	return t
}

// Enter waits until a copy may begin; leave lets the next one begin. Errors: the context's cause.
func (t Throttle) Enter(ctx context.Context) (leave func(), err error) {
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
