// Package groupsync combines the fsync(2) calls of concurrent callers. Calls that wait while the
// disk is busy share the next commit of the filesystem's journal, and calls for one directory share
// one fsync.
package groupsync

import (
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
)

// Group makes the fsync(2) calls of one filesystem. Only what has little to write may go through
// it, because all calls of a commit wait for its slowest file.
type Group struct {
	fsync func(*os.File) error
	turn  chan struct{} // held by the call that makes the present commit

	mu   sync.Mutex
	next *commit // what calls join until one of them begins it
}

// commit is some files, each of them to be synced once.
type commit struct {
	done chan struct{}
	errs map[*os.File]error // to be read after done is closed
}

// New makes a group of calls to fsync, which is (*os.File).Sync outside of tests.
func New(fsync func(*os.File) error) *Group {
	return &Group{fsync: fsync, turn: make(chan struct{}, 1)}
}

// Sync returns when everything that was done to the files before is durable. A call never joins a
// commit that began before the call. Errors: those of fsync for these files; what was done to them
// may then be lost.
func (g *Group) Sync(files ...*os.File) error {
	mine := g.join(files)
	select {
	case <-mine.done:
	case g.turn <- struct{}{}:
		g.lead(mine)
		<-g.turn
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, mine.errs[f])
	}
	return errors.Join(errs...)
}

// SyncFile is Sync for one file.
func (g *Group) SyncFile(f *os.File) error { return g.Sync(f) }

func (g *Group) join(files []*os.File) *commit {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		g.next = &commit{done: make(chan struct{}), errs: make(map[*os.File]error)}
	}
	for _, f := range files {
		g.next.errs[f] = nil
	}
	return g.next
}

// lead makes a commit, unless the call that had the turn before has made it.
func (g *Group) lead(mine *commit) {
	g.mu.Lock()
	made := g.next != mine
	if !made {
		g.next = nil
	}
	g.mu.Unlock()
	if made {
		return
	}
	files := slices.Collect(maps.Keys(mine.errs))
	for i, err := range g.syncAll(files) {
		mine.errs[files[i]] = err
	}
	close(mine.done)
}

// syncAll syncs the files at the same time, so that a filesystem with one journal commits once.
func (g *Group) syncAll(files []*os.File) []error {
	errs := make([]error, len(files))
	var others sync.WaitGroup
	for i, f := range files[1:] {
		others.Go(func() { errs[1+i] = g.fsync(f) })
	}
	errs[0] = g.fsync(files[0])
	others.Wait()
	return errs
}
