package copytree

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// copier is one call of Tree.
type copier struct {
	Options

	ctx  context.Context //nolint:containedctx // lives as long as one call
	fail context.CancelCauseFunc
	// idle is received from by workers that have nothing to do: a send succeeds only when one
	// waits. So nothing is ever queued, and what is known of the tree is what the workers stand in,
	// whatever its size.
	idle chan func()
	// trees are the walks that have been handed to other workers.
	trees sync.WaitGroup
	links links
	// self is /proc/self/fd.
	self descriptor
	// copied counts files; paces are what pace has begun, one at a time. Who has set pacing owns
	// early: the count at which content is written next.
	copied atomic.Int64
	pacing atomic.Bool
	early  int64
	paces  sync.WaitGroup
	// others are who is in a hurry, and has been since content was written last.
	others atomic.Bool
	// block is the size of the blocks of the copy's filesystem; entries counts what was made.
	block   int64
	entries atomic.Int64
	// plain and slow are set once the two files of a copy have turned out to be where nothing can
	// be shared or copied by the kernel.
	plain, slow atomic.Bool
	// leasePatience is how long a file may be leased, but in tests.
	leasePatience func() (time.Duration, error)
}

// newCopier starts the workers; done waits for them.
func newCopier(
	ctx context.Context, dst descriptor, opts Options,
) (c *copier, done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, context.Cause(ctx)
	}
	self, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/proc/self/fd", Err: err}
	}
	running, fail := context.WithCancelCause(ctx)
	c = &copier{
		Options: opts,
		ctx:     running,
		fail:    fail,
		idle:    make(chan func()),
		links:   links{root: dst},
		self:    descriptor(self),
	}
	c.leasePatience, c.early = leasePatience, earlyFiles
	var workers sync.WaitGroup
	for range opts.Workers - 1 {
		workers.Go(func() {
			defer yieldProcessor()()
			for work := range c.idle {
				work()
			}
		})
	}
	return c, func() {
		close(c.idle)
		workers.Wait()
		c.paces.Wait()
		c.self.close()
		c.links.close()
		fail(nil)
	}, nil
}

// niceness is what nice(1) gives by default: who has anything else to do on the processor goes
// first.
const niceness = 10

// yieldProcessor keeps the goroutine on one thread, of low priority, until back is called: a copy
// is long, and an RPC that comes meanwhile is short. (The disk's priority follows: ioprio_set(2).)
// Where it is not allowed, the copy is as important as all else. The thread lives on: processes
// that it has started may be told of its end (prctl(2), PR_SET_PDEATHSIG).
func yieldProcessor() (back func()) {
	runtime.LockOSThread()
	thread := unix.Gettid()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, thread)
	before := 20 - raw // the system call has no negative results, unlike its wrapper in C
	if err != nil || before >= niceness ||
		unix.Setpriority(unix.PRIO_PROCESS, thread, niceness) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		if unix.Setpriority(unix.PRIO_PROCESS, thread, before) == nil {
			runtime.UnlockOSThread()
		} // or else the thread ends with the goroutine
	}
}

// offer has work done by a worker that is idle, and counted in the group; false if there is none.
// Work may offer further work and wait for that: nobody ever waits for the one who gave him his.
func (c *copier) offer(group *sync.WaitGroup, work func() error) bool {
	group.Add(1)
	counted := func() {
		defer group.Done()
		if err := work(); err != nil {
			c.fail(err)
		}
	}
	select {
	case c.idle <- counted:
		return true
	default:
		group.Done()
		return false
	}
}

// stopped says why nothing more is to be done: the first error, or the end of the caller's context.
func (c *copier) stopped() error {
	if c.ctx.Err() == nil {
		return nil
	}
	return context.Cause(c.ctx)
}

// proceed is stopped, after others have gone first. A thread of theirs that has become ready does
// not displace one of ours, whatever their priorities, before the next tick, 4 ms away perhaps,
// unless the kernel is one that can be preempted: so ours offers its processor.
func (c *copier) proceed() error {
	if err := c.stopped(); err != nil || c.Yielder == nil {
		return err
	}
	others, err := c.Yielder.Yield(c.ctx)
	if others {
		c.others.Store(true)
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	return err
}

// vanished says whether an error only means that a name does not lead to what it led to.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) ||
		errors.Is(err, unix.ESTALE)
}
