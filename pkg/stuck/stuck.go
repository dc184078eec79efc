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

// MaxCalls is how many calls may be under way at a time. One that does not end costs a thread.
const MaxCalls = 64

// Calls are calls under way to filesystems: one at a time for each key, and MaxCalls altogether.
type Calls struct {
	patience time.Duration

	mu       sync.Mutex
	underWay map[string]*call
	ended    chan struct{} // closed when any call ends; nil while nobody waits for that
}

// Question is what a call asks a filesystem.
type Question struct {
	// Key is equal for the questions of which one at a time is enough.
	Key string
	// Path is for messages: what does not answer.
	Path string
}

type call struct {
	path  string
	since time.Time
}

// NewCalls returns no calls yet. Patience is how long their callers wait; only tests have another.
func NewCalls(patience time.Duration) *Calls {
	return &Calls{patience: patience, underWay: make(map[string]*call)}
}

// Do returns the result of ask, which runs on a goroutine of its own. If ask does not end within
// the patience, or before the context ends, Do returns without it; discard, unless it is nil, gets
// a result that comes later. While an earlier call of the key is under way, or MaxCalls calls are,
// ask is not begun: Do waits as long as one of them may still end in time.
// Errors: volume.ErrUnresponsive, with the time since when; those of the context and of ask.
func Do[T any](
	ctx context.Context, c *Calls, q Question, ask func() (T, error), discard func(T),
) (result T, err error) {
	mine, err := c.begin(ctx, q)
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
		c.end(q)
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
		err = unresponsive(mine)
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", unresponsive(mine), ctx.Err())
	}
	close(gone)
	return result, err
}

// Enter begins a call that the caller's own thread makes: it costs no goroutine, and the caller may
// have to wait for as long as the filesystem. Enter waits as Do does. Errors: those of Do.
func (c *Calls) Enter(ctx context.Context, q Question) (leave func(), err error) {
	if _, err := c.begin(ctx, q); err != nil {
		return nil, err
	}
	return func() { c.end(q) }, nil
}

// begin enters a call. It waits for those in its way, as long as they may still end.
func (c *Calls) begin(ctx context.Context, q Question) (*call, error) {
	for {
		mine, inTheWay := c.tryBegin(q)
		if mine != nil {
			return mine, nil
		}
		timer := time.NewTimer(time.Until(inTheWay.until))
		select {
		case <-inTheWay.ended:
			timer.Stop()
		case <-timer.C:
			return nil, inTheWay.err
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w: %w", inTheWay.err, ctx.Err())
		}
	}
}

// obstacle is what keeps a call from beginning.
type obstacle struct {
	until time.Time     // when it is no longer waited for
	ended chan struct{} // closed when any call ends
	err   error
}

func (c *Calls) tryBegin(q Question) (*call, obstacle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	earlier := c.underWay[q.Key]
	if earlier == nil && len(c.underWay) < MaxCalls {
		mine := &call{path: q.Path, since: time.Now()}
		c.underWay[q.Key] = mine
		return mine, obstacle{}
	}
	if c.ended == nil {
		c.ended = make(chan struct{})
	}
	if earlier != nil {
		return nil, obstacle{earlier.since.Add(c.patience), c.ended, unresponsive(earlier)}
	}
	var last time.Time
	for _, other := range c.underWay {
		if other.since.After(last) {
			last = other.since
		}
	}
	return nil, obstacle{last.Add(c.patience), c.ended, fmt.Errorf(
		"%w: calls wait for those of %d paths, so %s is not asked: earlier errors name them",
		volume.ErrUnresponsive, MaxCalls, q.Path)}
}

func (c *Calls) end(q Question) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.underWay, q.Key)
	if c.ended != nil {
		close(c.ended)
		c.ended = nil
	}
}

func unresponsive(c *call) error {
	return fmt.Errorf("%w: that of %s, since %s", volume.ErrUnresponsive, c.path,
		c.since.UTC().Format(time.RFC3339))
}
