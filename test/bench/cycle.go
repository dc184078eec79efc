package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// step is a part of a volume's life.
type step int

// The steps of a full cycle, in order. The driver purges in the background, so only the floor has a
// time for purge.
const (
	create step = iota
	stage
	publish
	write
	stats
	unpublish
	unstage
	remove
	purge
	stepCount
)

func (s step) String() string {
	return [...]string{
		"CreateVolume", "NodeStageVolume", "NodePublishVolume", "write 4 KiB", "NodeGetVolumeStats", "NodeUnpublishVolume",
		"NodeUnstageVolume", "DeleteVolume", "purge",
	}[s]
}

// laps has the time of each step of one cycle.
type laps [stepCount]time.Duration

// subject is what goes through cycles: the driver, or the system calls that it cannot do without.
type subject interface {
	// cycle takes the named volume from its creation to its end, in one client's pod.
	cycle(ctx context.Context, client int, name string) (laps, error)
}

// serial numbers volumes: no name is used twice.
var serial atomic.Int64

// volumeName has the length of the names that external-provisioner gives.
func volumeName() string { return fmt.Sprintf("pvc-b3a1e5c0-0000-4000-8000-%012x", serial.Add(1)) }

// result is what one round of cycles came to.
type result struct {
	rate float64 // cycles a second
	laps []laps
}

// run sends clients through cycles, each as fast as it can, until the time is over.
func run(ctx context.Context, s subject, clients int, d time.Duration) (result, error) {
	var wg sync.WaitGroup
	perClient := make([][]laps, clients)
	errs := make([]error, clients)
	start := time.Now()
	for client := range clients {
		wg.Go(func() {
			// At least one cycle, however late the client begins.
			for len(perClient[client]) == 0 || time.Since(start) < d {
				var l laps
				if l, errs[client] = s.cycle(ctx, client, volumeName()); errs[client] != nil {
					return
				}
				perClient[client] = append(perClient[client], l)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	var r result
	for _, l := range perClient {
		r.laps = append(r.laps, l...)
	}
	r.rate = float64(len(r.laps)) / elapsed.Seconds()
	return r, errors.Join(errs...)
}

// times are those of one step.
func (r result) times(s step) []time.Duration {
	all := make([]time.Duration, 0, len(r.laps))
	for _, l := range r.laps {
		all = append(all, l[s])
	}
	return all
}

// stopwatch measures steps one after the other.
type stopwatch struct {
	laps laps
	last time.Time
}

func startWatch() *stopwatch { return &stopwatch{last: time.Now()} }

func (w *stopwatch) lap(s step) {
	now := time.Now()
	w.laps[s] = now.Sub(w.last)
	w.last = now
}

// content is what a pod writes.
var content = make([]byte, 4096)

func writeAsPod(target string) error {
	return os.WriteFile(filepath.Join(target, "data"), content, 0o644)
}
