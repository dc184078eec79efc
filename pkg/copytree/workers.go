package copytree

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/workers"
)

// copier is the state of one call of Tree.
type copier struct {
	Options
	*workers.Group

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
	fdDir, err := openat.OpenFDDir()
	if err != nil {
		return nil, nil, err
	}
	group, err := workers.Start(ctx, workers.Options{
		Number: opts.Workers, Yielder: opts.Yielder, Begin: workers.LowerPriority,
	})
	if err != nil {
		descriptor(fdDir).close()
		return nil, nil, err
	}
	c = &copier{
		Options:       opts,
		Group:         group,
		links:         links{root: dst},
		fdDir:         descriptor(fdDir),
		leasePatience: leasePatience,
		nextSyncfs:    syncfsFiles,
	}
	return c, func() {
		group.Close()
		c.syncs.Wait()
		c.fdDir.close()
		c.links.close()
	}, nil
}

// vanished reports whether an error means that a name no longer leads to what it led to.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) ||
		errors.Is(err, unix.ESTALE)
}
