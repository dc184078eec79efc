package job

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackgroundWaitsForTheLastCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g CallGate
		if others, err := g.Yield(t.Context()); others || err != nil {
			t.Fatalf("with no call ever: others %v, %v", others, err)
		}
		g.Enter()
		g.Enter()
		time.AfterFunc(2*time.Millisecond, g.Leave)
		time.AfterFunc(5*time.Millisecond, g.Leave)
		begin := time.Now()
		others, err := g.Yield(t.Context())
		if waited := time.Since(begin); !others || err != nil || waited != 5*time.Millisecond {
			t.Errorf("others %v, %v after %s, want true after 5ms", others, err, waited)
		}
	})
}

func TestBackgroundExpectsCallsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g CallGate
		g.Enter()
		g.Leave()
		for _, after := range []struct {
			pause time.Duration
			want  bool
		}{{recentWindow - time.Millisecond, true}, {time.Millisecond, false}} {
			time.Sleep(after.pause)
			if others, err := g.Yield(t.Context()); others != after.want || err != nil {
				t.Errorf("after another %s: others %v, %v, want %v", after.pause, others, err, after.want)
			}
		}
	})
}

// The background work has a fifth of the time, however busy the pool is.
func TestBackgroundGoesOnUnderCallsWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g CallGate
		g.Enter()
		defer g.Leave()
		const step = 100 * time.Microsecond
		begin, steps := time.Now(), 0
		for ; time.Since(begin) < time.Second; steps++ {
			if _, err := g.Yield(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(step)
		}
		if worked := time.Duration(steps) * step; worked < 190*time.Millisecond ||
			worked > 210*time.Millisecond {
			t.Errorf("worked for %s of a second, want 200ms", worked)
		}
	})
}

func TestBackgroundThatWaitsEndsWithItsContext(t *testing.T) {
	var g CallGate
	g.Enter()
	defer g.Leave()
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := g.Yield(ctx); !errors.Is(err, gone) {
		t.Errorf("Yield returned %v, want the context's cause", err)
	}
}
