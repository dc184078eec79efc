package main

import "sync"

// tries counts how often nodes were asked to make a volume, by its name.
type tries struct {
	mu    sync.Mutex
	names map[string]int
}

func newTries() *tries { return &tries{names: map[string]int{}} }

func (t *tries) add(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.names[name]++
}

func (t *tries) of(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.names[name]
}
