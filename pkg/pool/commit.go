package pool

import (
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
)

// commits makes the fsync(2) calls of a pool, many of them together: what waits while the disk is
// busy shares the next commit of the filesystem's journal, and calls for one directory share one
// fsync. Only what has little to write may go through it, because everybody waits for the slowest.
type commits struct {
	fsync func(*os.File) error
	turn  chan struct{} // held by the call that makes the present commit

	mu   sync.Mutex
	next *commit // what calls join until somebody begins it
}

// commit is some files, each of them to be synced once.
type commit struct {
	done chan struct{}
	errs map[*os.File]error // to be read when done is closed
}

func newCommits(fsync func(*os.File) error) *commits {
	return &commits{fsync: fsync, turn: make(chan struct{}, 1)}
}

// sync returns when everything that was done to the files before is durable.
func (c *commits) sync(files ...*os.File) error {
	mine := c.join(files)
	select {
	case <-mine.done:
	case c.turn <- struct{}{}:
		c.lead(mine)
		<-c.turn
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, mine.errs[f])
	}
	return errors.Join(errs...)
}

// syncFile is sync for one file.
func (c *commits) syncFile(f *os.File) error { return c.sync(f) }

func (c *commits) join(files []*os.File) *commit {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = &commit{done: make(chan struct{}), errs: make(map[*os.File]error)}
	}
	for _, f := range files {
		c.next.errs[f] = nil
	}
	return c.next
}

// lead makes a commit, unless the call that had the turn before has made it.
func (c *commits) lead(mine *commit) {
	c.mu.Lock()
	made := c.next != mine
	if !made {
		c.next = nil
	}
	c.mu.Unlock()
	if made {
		return
	}
	files := slices.Collect(maps.Keys(mine.errs))
	for i, err := range c.syncAll(files) {
		mine.errs[files[i]] = err
	}
	close(mine.done)
}

// syncAll syncs at the same time, so that a filesystem with one journal commits once.
func (c *commits) syncAll(files []*os.File) []error {
	errs := make([]error, len(files))
	var others sync.WaitGroup
	for i, f := range files[1:] {
		others.Go(func() { errs[1+i] = c.fsync(f) })
	}
	errs[0] = c.fsync(files[0])
	others.Wait()
	return errs
}

// syncPlaced makes renames from tmp/ into volumes/ or snapshots/ durable.
func (p *Pool) syncPlaced(to dir) error { return p.commits.syncFile(to.File) }

// syncTaken makes durable what throwAway did to an entry of volumes/ or snapshots/: what is still
// there is buried.
func (p *Pool) syncTaken(from dir, name string) error {
	files := []*os.File{from.File}
	if !p.ordered {
		files = append(files, p.trash.File)
	}
	grave, err := from.openDir(name)
	switch {
	case err == nil:
		defer grave.Close()
		files = append(files, grave.File)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	return from.twice(func() error { return p.commits.sync(files...) })
}
