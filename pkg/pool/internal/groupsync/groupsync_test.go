package groupsync

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// slowDisk counts fsyncs. Each of them ends when the test lets it.
type slowDisk struct {
	begun, mayEnd chan struct{}

	mu     sync.Mutex
	fsyncs map[*os.File]int
	broken *os.File
}

var errBrokenDisk = errors.New("broken disk")

func newSlowDisk() *slowDisk {
	return &slowDisk{
		begun:  make(chan struct{}, 100),
		mayEnd: make(chan struct{}),
		fsyncs: make(map[*os.File]int),
	}
}

func (d *slowDisk) fsync(f *os.File) error {
	d.mu.Lock()
	d.fsyncs[f]++
	d.mu.Unlock()
	d.begun <- struct{}{}
	<-d.mayEnd
	if f == d.broken {
		return errBrokenDisk
	}
	return nil
}

// waiting returns how many files wait for the next commit.
func (g *Group) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		return 0
	}
	return len(g.next.errs)
}

// A call must not join an fsync that is already under way, because the fsync may have begun before
// the call's change.
func TestCallsThatWaitShareTheNextFsync(t *testing.T) {
	const callers = 8
	disk, directory := newSlowDisk(), new(os.File)
	disk.broken = new(os.File)
	g := New(disk.fsync)
	var calls sync.WaitGroup
	calls.Go(func() { _ = g.Sync(directory) })
	<-disk.begun
	errs := make([]error, callers)
	for i := range callers {
		own := new(os.File)
		if i == 0 {
			own = disk.broken
		}
		calls.Go(func() { errs[i] = g.Sync(directory, own) })
	}
	fixture.Eventually(t, "all files wait for the next commit",
		func() bool { return g.waiting() == callers+1 }, func() any { return g.waiting() })
	close(disk.mayEnd)
	calls.Wait()
	if got := disk.fsyncs[directory]; got != 2 {
		t.Errorf("%d fsyncs of the directory for one call and %d that came during the first: want 2", got,
			callers)
	}
	for i, err := range errs {
		if wrong := i == 0; errors.Is(err, errBrokenDisk) != wrong {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

func TestEveryCallIsSynced(t *testing.T) {
	disk := newSlowDisk()
	close(disk.mayEnd)
	disk.begun = make(chan struct{}, 10_000)
	g := New(disk.fsync)
	var calls sync.WaitGroup
	for range 32 {
		calls.Go(func() {
			for range 100 {
				own := new(os.File)
				if err := g.Sync(own); err != nil {
					t.Error(err)
				}
				disk.mu.Lock()
				if disk.fsyncs[own] != 1 {
					t.Errorf("%d fsyncs when the call returned, want 1", disk.fsyncs[own])
				}
				disk.mu.Unlock()
			}
		})
	}
	calls.Wait()
}
