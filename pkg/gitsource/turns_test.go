package gitsource

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/test/fixture"
)

// queue is how many wait for a turn.
func (t *turns) queue() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

func TestSlowServersLeaveTurnsToOthers(t *testing.T) {
	turns := newTurns()
	var slow []func()
	for i := range maxFetches {
		leave, err := turns.enter(t.Context(), fmt.Sprint("slow", i%2))
		fixture.Must(t, err)
		slow = append(slow, leave)
	}
	ctx, stop := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for i := range 20 {
		waiting.Go(func() {
			if _, err := turns.enter(ctx, fmt.Sprint("slow", i%2)); !errors.Is(err, context.Canceled) {
				t.Errorf("a fetch of a slow server: %v", err)
			}
		})
	}
	fixture.Eventually(t, "fetches wait", func() bool { return turns.queue() == 20 })
	quick := make(chan func())
	waiting.Go(func() {
		leave, err := turns.enter(t.Context(), "quick")
		fixture.Must(t, err)
		quick <- leave
	})
	fixture.Eventually(t, "one more waits", func() bool { return turns.queue() == 21 })
	slow[0]()
	leave := <-quick // although it has come last
	stop()
	waiting.Wait()
	leave()
	for _, leave := range slow[1:] {
		leave()
	}
	if turns.all != 0 || len(turns.byHost) != 0 || len(turns.waiting) != 0 {
		t.Errorf("%+v is left", turns)
	}
}

func TestTurnsAreBounded(t *testing.T) {
	turns := newTurns()
	var all, host atomic.Int64
	var running sync.WaitGroup
	for i := range 100 {
		running.Go(func() {
			name := "one"
			if i%2 == 0 {
				name = strconv.Itoa(i)
			}
			ctx, cancel := context.WithCancel(t.Context())
			if i%5 == 0 {
				cancel() // it may have its turn nevertheless
			}
			defer cancel()
			leave, err := turns.enter(ctx, name)
			if err != nil {
				return
			}
			defer leave()
			if n := all.Add(1); n > maxFetches {
				t.Errorf("%d fetches", n)
			}
			defer all.Add(-1)
			if name == "one" {
				if n := host.Add(1); n > maxFetchesOfHost {
					t.Errorf("%d fetches of one server", n)
				}
				defer host.Add(-1)
			}
		})
	}
	running.Wait()
	if turns.all != 0 || len(turns.byHost) != 0 || len(turns.waiting) != 0 {
		t.Errorf("%+v is left", turns)
	}
}
