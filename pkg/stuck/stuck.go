// Package stuck bounds how long, and how many, threads wait for filesystems that may not answer: a
// FUSE filesystem whose server hangs, NFS without its server. Nobody can end a system call that
// waits for one, and a process with such a call may not end either.
package stuck

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Patience is how long a caller waits for a filesystem. A disk that has to spin up answers earlier,
// and kubelet waits longer for a call.
const Patience = 10 * time.Second

// Calls are calls under way to filesystems, by keys of the caller's: one at a time for each key.
type Calls struct {
	patience time.Duration

	mu       sync.Mutex
	underWay map[string]*call
}

type call struct {
	since time.Time
	ended chan struct{} // closed at the end
}

// NewCalls returns no calls yet. Patience is how long their callers wait; only tests have another.
func NewCalls(patience time.Duration) *Calls {
	return &Calls{patience: patience, underWay: make(map[string]*call)}
}

// Do returns the result of ask, which runs on a goroutine of its own. If ask does not end within
// the patience, or before the context ends, Do returns without it; discard, unless it is nil, gets
// a result that comes later. While an earlier call of the key is under way, ask is not begun.
// Errors: volume.ErrUnresponsive, with the time since when; those of the context and of ask.
func Do[T any](
	ctx context.Context, c *Calls, key string, ask func() (T, error), discard func(T),
) (result T, err error) {
	mine, err := c.begin(ctx, key)
	if err != nil {
		return result, err
	}
	type answer struct {
		result T
		err    error
	}
	answers := make(chan answer)
	gone := make(chan struct{})
	go func() {
		result, err := ask()
		c.end(key, mine)
		select {
		case answers <- answer{result, err}:
		case <-gone:
			if err == nil && discard != nil {
				discard(result)
			}
		}
	}()
	timer := time.NewTimer(c.patience)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a.result, a.err
	case <-timer.C:
		err = unresponsive(key, mine)
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", unresponsive(key, mine), ctx.Err())
	}
	close(gone)
	return result, err
}

// Enter begins a call that the caller's own thread makes: it costs no goroutine, and the caller may
// have to wait for as long as the filesystem. While an earlier call of the key is under way, Enter
// waits as Do does. Errors: those of Do.
func (c *Calls) Enter(ctx context.Context, key string) (leave func(), err error) {
	mine, err := c.begin(ctx, key)
	if err != nil {
		return nil, err
	}
	return func() { c.end(key, mine) }, nil
}

// begin enters a call. It waits for an earlier one of the key, as long as that one may still end.
func (c *Calls) begin(ctx context.Context, key string) (*call, error) {
	for {
		mine, earlier := c.tryBegin(key)
		if earlier == nil {
			return mine, nil
		}
		timer := time.NewTimer(time.Until(earlier.since.Add(c.patience)))
		select {
		case <-earlier.ended:
			timer.Stop()
		case <-timer.C:
			return nil, unresponsive(key, earlier)
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w: %w", unresponsive(key, earlier), ctx.Err())
		}
	}
}

func (c *Calls) tryBegin(key string) (mine, earlier *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if earlier := c.underWay[key]; earlier != nil {
		return nil, earlier
	}
	mine = &call{since: time.Now(), ended: make(chan struct{})}
	c.underWay[key] = mine
	return mine, nil
}

func (c *Calls) end(key string, mine *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.underWay, key)
	close(mine.ended)
}

func unresponsive(key string, c *call) error {
	return fmt.Errorf("%w: that of %s, since %s", volume.ErrUnresponsive, key,
		c.since.UTC().Format(time.RFC3339))
}
