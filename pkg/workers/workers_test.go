package workers

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func start(t *testing.T, opts Options) *Group {
	t.Helper()
	g, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestWorkIsOnlyTakenByAnIdleWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun, ended atomic.Int64
		g := start(t, Options{Number: 3, Begin: func() (end func()) {
			begun.Add(1)
			return func() { ended.Add(1) }
		}})
		var work sync.WaitGroup
		release := make(chan struct{})
		taken := 0
		for range 5 {
			synctest.Wait() // until the others are idle, or busy
			if g.Offer(&work, func() error { <-release; return nil }) {
				taken++
			}
		}
		if taken != 2 {
			t.Errorf("%d pieces of work were taken, want one for each of the two other workers", taken)
		}
		close(release)
		work.Wait()
		g.Close()
		if begun.Load() != 2 || ended.Load() != 2 {
			t.Errorf("%d workers have begun and %d ended, want 2", begun.Load(), ended.Load())
		}
	})
}

func TestFirstErrorEndsTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := start(t, Options{Number: 2})
		defer g.Close()
		first := errors.New("first")
		var work sync.WaitGroup
		synctest.Wait()
		if !g.Offer(&work, func() error { return first }) {
			t.Fatal("no worker is idle")
		}
		work.Wait()
		g.Fail(errors.New("second"))
		if err := g.Proceed(); !errors.Is(err, first) {
			t.Errorf("Proceed: %v, want the first error", err)
		}
	})
}

// busy reports other work, and fails when it is told to.
type busy struct{ err error }

func (b *busy) Yield(context.Context) (others bool, err error) { return true, b.err }

func TestProceedAsksTheYielder(t *testing.T) {
	b := &busy{}
	g := start(t, Options{Number: 1, Yielder: b})
	defer g.Close()
	if err := g.Proceed(); err != nil || !g.TakeOthers() || g.TakeOthers() {
		t.Errorf("Proceed: %v; other work has to be reported once", err)
	}
	b.err = errors.New("enough")
	if err := g.Proceed(); !errors.Is(err, b.err) {
		t.Errorf("Proceed: %v, want the yielder's error", err)
	}
}
