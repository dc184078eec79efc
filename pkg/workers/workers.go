// Package workers has the workers of one long piece of background work, such as the copy of a tree.
// They take work over from one another and give way to calls.
package workers

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Yielder lets other work go first. Yield waits for other work, for a bounded time, and returns
// whether there is any, or was recently. Its errors end the work.
type Yielder interface {
	Yield(ctx context.Context) (others bool, err error)
}

// Default is one worker for each processor: the driver sets GOMAXPROCS to twice their number
// (cmd/csi-hostpath). More than a few workers wait for each other in the filesystem's journal.
func Default() int { return min(max(2, runtime.GOMAXPROCS(0)/2), 8) }

// Group is the workers of one piece of work. The first error ends the work.
type Group struct {
	ctx  context.Context //nolint:containedctx // lives as long as the work
	fail context.CancelCauseFunc
	// idle has no buffer, and idle workers receive from it: a send succeeds only if a worker is idle.
	// So nothing is queued, and memory does not grow with the size of the work.
	idle    chan func()
	workers sync.WaitGroup
	yielder Yielder
	others  atomic.Bool
}

// Options say how a group works.
type Options struct {
	// Number is how many workers there are. The goroutine that calls Start is one of them.
	Number int
	// Yielder, if set, may delay each worker in Proceed.
	Yielder Yielder
	// Begin, if set, is called by each worker when it begins, except by the caller of Start, and end
	// when it ends.
	Begin func() (end func())
}

// Start starts the workers. The caller closes the group. Errors: the context's cause.
func Start(ctx context.Context, opts Options) (*Group, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if opts.Begin == nil {
		opts.Begin = func() (end func()) { return func() {} }
	}
	running, fail := context.WithCancelCause(ctx)
	g := &Group{ctx: running, fail: fail, idle: make(chan func()), yielder: opts.Yielder}
	for range opts.Number - 1 {
		g.workers.Go(func() {
			defer opts.Begin()()
			for work := range g.idle {
				work()
			}
		})
	}
	return g, nil
}

// Close ends the workers and waits for them. No work may be offered any more.
func (g *Group) Close() {
	close(g.idle)
	g.workers.Wait()
	g.fail(nil)
}

// Context ends with the first error, and with the context that Start got.
func (g *Group) Context() context.Context { return g.ctx }

// Fail ends the work with an error, unless it has one already.
func (g *Group) Fail(err error) { g.fail(err) }

// Stopped returns why the work ends: the first error, or the cause of the caller's context.
func (g *Group) Stopped() error {
	if g.ctx.Err() == nil {
		return nil
	}
	return context.Cause(g.ctx)
}

// Offer hands work to an idle worker and counts it in the wait group; false if no worker is idle.
// Work may offer further work and wait for it. This cannot deadlock: a worker never waits for the
// worker from which it has its work.
func (g *Group) Offer(group *sync.WaitGroup, work func() error) bool {
	group.Add(1)
	counted := func() {
		defer group.Done()
		if err := work(); err != nil {
			g.fail(err)
		}
	}
	select {
	case g.idle <- counted:
		return true
	default:
		group.Done()
		return false
	}
}

// Proceed lets other work go first, and returns Stopped. Unless the kernel is preemptible, a thread
// of the other work that becomes ready waits for the next tick, up to 4 ms, before it displaces a
// thread of this work, whatever their priorities: so this thread offers its processor.
func (g *Group) Proceed() error {
	if err := g.Stopped(); err != nil || g.yielder == nil {
		return err
	}
	others, err := g.yielder.Yield(g.ctx)
	if others {
		g.others.Store(true)
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	return err
}

// TakeOthers returns whether there was other work since it was called last.
func (g *Group) TakeOthers() bool { return g.others.Swap(false) }

// niceness is the default of nice(1).
const niceness = 10

// LowerPriority locks the goroutine to its thread and lowers the thread's priority, until restore
// is called: the work is long, and an RPC that comes meanwhile is short. (The priority for the disk
// follows, see ioprio_set(2).) If that is not allowed, the priority stays. Other threads are not
// affected. The thread is used again afterwards: its end would kill processes that it has started
// with PR_SET_PDEATHSIG (prctl(2)).
func LowerPriority() (restore func()) {
	runtime.LockOSThread()
	thread := unix.Gettid()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, thread)
	before := 20 - raw // the system call returns 20 minus the niceness (getpriority(2))
	if err != nil || before >= niceness ||
		unix.Setpriority(unix.PRIO_PROCESS, thread, niceness) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		if unix.Setpriority(unix.PRIO_PROCESS, thread, before) == nil {
			runtime.UnlockOSThread()
		} // else the thread stays locked and ends with the goroutine
	}
}
