package copytree

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// copier is the state of one call of Tree.
type copier struct {
	Options

	ctx  context.Context //nolint:containedctx // lives as long as one call
	fail context.CancelCauseFunc
	// idle has no buffer, and idle workers receive from it: a send succeeds only if a worker is idle.
	// So nothing is queued, and memory does not grow with the size of the tree.
	idle chan func()
	// trees counts the walks that other workers have taken over.
	trees sync.WaitGroup
	links links
	// fdDir is the directory of this process's descriptors (openat.OpenFDDir).
	fdDir descriptor
	// copied counts files. syncs counts the syncs that syncEarly has started, one at a time. Whoever
	// has set syncing owns nextSyncfs, the number of files at which content is written next.
	copied     atomic.Int64
	syncing    atomic.Bool
	nextSyncfs int64
	syncs      sync.WaitGroup
	// others is set if the Yielder has reported other work since content was written last.
	others atomic.Bool
	// block is the block size of the copy's filesystem; entries counts what was made.
	block   int64
	entries atomic.Int64
	// noReflink and noKernelCopy are set when a file shows that the kernel can share no blocks, or
	// copy no bytes, between the two filesystems.
	noReflink, noKernelCopy atomic.Bool
	// leasePatience is the function of that name, except in tests.
	leasePatience func() (time.Duration, error)
}

// newCopier starts the workers; done ends them and waits for them.
func newCopier(
	ctx context.Context, dst descriptor, opts Options,
) (c *copier, done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, context.Cause(ctx)
	}
	fdDir, err := openat.OpenFDDir()
	if err != nil {
		return nil, nil, err
	}
	running, fail := context.WithCancelCause(ctx)
	c = &copier{
		Options: opts,
		ctx:     running,
		fail:    fail,
		idle:    make(chan func()),
		links:   links{root: dst},
		fdDir:   descriptor(fdDir),
	}
	c.leasePatience, c.nextSyncfs = leasePatience, syncfsFiles
	var workers sync.WaitGroup
	for range opts.Workers - 1 {
		workers.Go(func() {
			defer lowerPriority()()
			for work := range c.idle {
				work()
			}
		})
	}
	return c, func() {
		close(c.idle)
		workers.Wait()
		c.syncs.Wait()
		c.fdDir.close()
		c.links.close()
		fail(nil)
	}, nil
}

// niceness is the default of nice(1).
const niceness = 10

// lowerPriority locks the goroutine to its thread and lowers the thread's priority, until restore
// is called: a copy is long, and an RPC that comes meanwhile is short. (The priority for the disk
// follows, see ioprio_set(2).) If that is not allowed, the priority stays. Other threads are not
// affected. The thread is used again afterwards: its end would kill processes that it has started
// with PR_SET_PDEATHSIG (prctl(2)).
func lowerPriority() (restore func()) {
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

// offer hands work to an idle worker and counts it in the group; false if no worker is idle. Work
// may offer further work and wait for it. This cannot deadlock: a worker never waits for the worker
// from which it has its work.
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

// stopped returns why the copy stops: the first error, or the cause of the caller's context.
func (c *copier) stopped() error {
	if c.ctx.Err() == nil {
		return nil
	}
	return context.Cause(c.ctx)
}

// proceed lets other work go first, and returns stopped. Unless the kernel is preemptible, a thread
// of the other work that becomes ready waits for the next tick, up to 4 ms, before it displaces a
// thread of the copy, whatever their priorities: so the copy's thread offers its processor.
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

// vanished reports whether an error means that a name no longer leads to what it led to.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) ||
		errors.Is(err, unix.ESTALE)
}
