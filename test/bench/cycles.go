package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// clientCounts are how many calls are under way at a time.
var clientCounts = []int{1, 2, 4, 8, 16, 32}

// comparison is the driver beside the floor, round by round.
type comparison struct {
	driver, floor []result
	// behind is how many deleted volumes waited to be purged when a round ended, and drain how long they took.
	behind []float64
	drain  []float64
}

// cycles measures whole lives of volumes.
func (b *bench) cycles(ctx context.Context) error {
	p, _, err := b.driver(ctx, "cycle")
	if err != nil {
		return err
	}
	driver, err := newSockets(p, clientCounts[len(clientCounts)-1])
	if err != nil {
		return err
	}
	bottom, err := newFloor(b.pool("floor"), filepath.Join(b.dir, "floor-targets"))
	if err != nil {
		return err
	}
	found := map[int]*comparison{}
	for _, clients := range clientCounts {
		found[clients] = &comparison{}
		for range b.rounds {
			if err := b.compare(ctx, found[clients], driver, bottom, clients); err != nil {
				return err
			}
		}
	}
	b.report.chapter("Full cycle: create, stage, publish, write, stats, unpublish, unstage, delete", cycleRows(found)...)
	b.report.chapter("The calls, one at a time", callRows(found[1])...)
	return errors.Join(bottom.close(), b.stop(p))
}

// compare makes one round. The driver's purger is left to end before the floor is measured.
func (b *bench) compare(ctx context.Context, c *comparison, driver, bottom subject, clients int) error {
	d, err := run(ctx, driver, clients, b.duration)
	if err != nil {
		return err
	}
	behind, drained, err := b.drain(ctx, "cycle")
	if err != nil {
		return err
	}
	f, err := run(ctx, bottom, clients, b.duration)
	if err != nil {
		return err
	}
	c.driver, c.floor = append(c.driver, d), append(c.floor, f)
	c.behind, c.drain = append(c.behind, float64(behind)), append(c.drain, milliseconds(drained))
	return ctx.Err()
}

// drain waits until the pool's trash is empty, and says how much was in it.
func (b *bench) drain(ctx context.Context, poolName string) (behind int, took time.Duration, err error) {
	start := time.Now()
	for first := true; ; first = false {
		entries, err := os.ReadDir(filepath.Join(b.pool(poolName), "trash"))
		if err != nil || len(entries) == 0 {
			return behind, time.Since(start), err
		}
		if first {
			behind = len(entries)
		}
		select {
		case <-ctx.Done():
			return behind, 0, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func cycleRows(found map[int]*comparison) []row {
	var rows []row
	for _, clients := range clientCounts {
		c := found[clients]
		r := newRow(fmt.Sprintf("%d at a time", clients), "cycles/s", rates(c.driver)).beside(rates(c.driver), rates(c.floor))
		switch clients {
		case 1:
			r = r.ratioAtLeast(0.4)
		case 32:
			r = r.atLeast(1000)
			behind, drain := spreadOf(c.behind), spreadOf(c.drain)
			r = r.with("After a round with 32, %s volumes waited to be purged, and took %s ms (medians).",
				number(behind.Median), number(drain.Median))
		}
		rows = append(rows, r)
	}
	return rows
}

func rates(results []result) []float64 {
	all := make([]float64, 0, len(results))
	for _, r := range results {
		all = append(all, r.rate)
	}
	return all
}

// callRows compares medians of one round with those of the same round.
func callRows(c *comparison) []row {
	var rows []row
	var slowest []string
	for s := range purge {
		var medians, worst, bottom []float64
		for i := range c.driver {
			medians, worst = append(medians, p50(c.driver[i].times(s))), append(worst, p99(c.driver[i].times(s)))
			bottom = append(bottom, p50(c.floor[i].times(s)))
		}
		slowest = append(slowest, s.String()+" "+number(spreadOf(worst).Median))
		r := newRow(s.String()+", p50", "ms", medians)
		if s != stage && s != unstage { // nothing has to be done there
			r = r.beside(medians, bottom)
		}
		if s == publish || s == unpublish {
			r = r.atMost(0.5)
		}
		rows = append(rows, r)
	}
	rows[len(rows)-1].Note = "p99 of each, ms: " + strings.Join(slowest, ", ")
	return rows
}
