package driver

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/stuck"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// closeDisplaced waits until the slot's pool is no longer at its path, and closes the pool. It
// returns when the pool is closed or the context has ended.
func (s *poolSet) closeDisplaced(ctx context.Context, slot *poolSlot) {
	for {
		changed := s.changes.next()
		if err := s.checkAtPath(ctx, slot); err != nil {
			s.giveUp(ctx, slot, err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// checkAtPath compares the open pool with its path. If that takes long, a filesystem on the way
// does not answer, and calls are refused the pool until it does. Errors: those of pool.CheckAtPath.
func (s *poolSet) checkAtPath(ctx context.Context, slot *poolSlot) error {
	p := slot.pool
	q := stuck.Question{Key: "at " + slot.config.Path, Path: slot.where()}
	_, err := stuck.Do(ctx, s.asking, q, func() (struct{}, error) {
		return struct{}{}, p.CheckAtPath()
	}, nil)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // nobody looks any more
	}
	if errors.Is(err, volume.ErrUnresponsive) {
		s.setHanging(ctx, slot, err)
		return nil
	}
	s.setHanging(ctx, slot, nil)
	return err
}

// setHanging says why calls are refused an open pool that does not answer; nil: they are not.
func (s *poolSet) setHanging(ctx context.Context, slot *poolSlot, why error) {
	s.mu.Lock()
	before := slot.hangs
	slot.hangs = why
	s.mu.Unlock()
	logger := klog.FromContext(ctx).WithValues("pool", slot.config.Name)
	switch {
	case why != nil && before == nil:
		logger.Error(why, "Pool does not answer: its volumes are unavailable until it does")
	case why == nil && before != nil:
		logger.Info("Pool answers again")
	}
}

// giveUp takes the pool away from the calls that begin from now on, waits for those that may
// still use it, and closes it. A call or a purge that hangs on a dead disk delays that, and so does
// the end of the context: then the process's own end lets go of the pool.
func (s *poolSet) giveUp(ctx context.Context, slot *poolSlot, why error) {
	p := slot.pool
	s.mu.Lock()
	slot.pool, slot.err = nil, why
	s.mu.Unlock()
	logger := klog.FromContext(ctx).WithValues("pool", slot.config.Name, "poolID", p.ID())
	logger.Error(why, "Pool is given up: its volumes are unavailable until its disk is back")
	closed := make(chan error, 1)
	go func() {
		s.calls.drain()
		closed <- p.Close()
	}()
	select {
	case err := <-closed:
		logger.Info("Pool is closed: its disk can be unmounted", "err", err)
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closing = append(s.closing, p)
	}
}

// signal wakes all that wait for its next firing.
type signal struct {
	mu    sync.Mutex
	fired chan struct{}
}

// next is closed by the next fire.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fired == nil {
		s.fired = make(chan struct{})
	}
	return s.fired
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fired != nil {
		close(s.fired)
		s.fired = nil
	}
}

// callEpoch counts the calls under way, so that a pool can be closed when the last one that may
// have found it has ended. (Read-copy-update calls that a grace period.)
type callEpoch struct {
	mu      sync.Mutex
	current *sync.WaitGroup
}

// enter begins a call; leave ends it. Neither waits.
func (e *callEpoch) enter() (leave func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current == nil {
		e.current = new(sync.WaitGroup)
	}
	e.current.Add(1)
	return e.current.Done
}

// drain waits for the calls that are under way now, not for later ones.
func (e *callEpoch) drain() {
	e.mu.Lock()
	earlier := e.current
	e.current = nil
	e.mu.Unlock()
	if earlier != nil {
		earlier.Wait()
	}
}

// countCall is a grpc.UnaryServerInterceptor.
func (s *poolSet) countCall(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	leave := s.calls.enter()
	defer leave()
	return handler(ctx, req)
}
