package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// comparison is the driver beside the floor, round by round.
type comparison struct {
	driver, floor []result
	// behind is how many deleted volumes waited to be purged when a round ended, and drain how long
	// they took.
	behind []float64
	drain  []float64
	// The processors' time for one cycle in milliseconds: the driver's, that of the clients in this
	// process, and the floor's.
	driverCPU, clientCPU, floorCPU []float64
}

// cycles measures whole lives of volumes.
func (b *bench) cycles(ctx context.Context) error {
	p, _, err := b.driver(ctx, "cycle")
	if err != nil {
		return err
	}
	driver, err := newSockets(p, slices.Max(b.clients))
	if err != nil {
		return err
	}
	bottom, err := newFloor(b.pool("floor"), filepath.Join(b.node.dir, "floor-targets"))
	if err != nil {
		return err
	}
	var rows, calls, cpu []report.Row
	for _, clients := range b.clients {
		var c comparison
		for range b.rounds {
			if err := b.compare(ctx, &c, driver, bottom, clients); err != nil {
				return err
			}
		}
		rows = append(rows, cycleRow(clients, c))
		if clients == 1 {
			calls = callRows(c)
		}
		cpu = append(
			cpu,
			report.NewRow(fmt.Sprintf("driver, %d at a time", clients), "ms/cycle",
				c.driverCPU).Beside(c.driverCPU, c.floorCPU),
			report.NewRow(fmt.Sprintf("clients, %d at a time", clients), "ms/cycle", c.clientCPU),
		)
	}
	b.report.Chapter(
		"Full cycle: create, stage, publish, write, stats, unpublish, unstage, delete",
		rows...)
	b.report.Chapter("Processor time, without the kernel's own threads", cpu...)
	if calls != nil {
		b.report.Chapter("The calls, one at a time", calls...)
	}
	return errors.Join(bottom.close(), b.stop(p))
}

// compare makes one round. The driver's purger is left to end before the floor is measured.
func (b *bench) compare(
	ctx context.Context, c *comparison, driver sockets, bottom subject, clients int,
) error {
	begin := cpuOf(driver.PID(), os.Getpid())
	d, err := run(ctx, driver, clients, b.duration)
	if err != nil {
		return err
	}
	behind, drained, err := b.drain(ctx, "cycle")
	if err != nil {
		return err
	}
	middle := cpuOf(driver.PID(), os.Getpid())
	f, err := run(ctx, bottom, clients, b.duration)
	if err != nil {
		return err
	}
	end := cpuOf(driver.PID(), os.Getpid())
	c.driverCPU = append(c.driverCPU, (middle[0]-begin[0])/float64(len(d.laps)))
	c.clientCPU = append(c.clientCPU, (middle[1]-begin[1])/float64(len(d.laps)))
	c.floorCPU = append(c.floorCPU, (end[1]-middle[1])/float64(len(f.laps)))
	c.driver, c.floor = append(c.driver, d), append(c.floor, f)
	c.behind = append(c.behind, float64(behind))
	c.drain = append(c.drain, report.Milliseconds(drained))
	return ctx.Err()
}

// drain waits until the pool's trash is empty, and says how much was in it.
func (b *bench) drain(
	ctx context.Context, poolName string,
) (behind int, took time.Duration, err error) {
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

func cycleRow(clients int, c comparison) report.Row {
	r := report.NewRow(fmt.Sprintf("%d at a time", clients), "cycles/s",
		rates(c.driver)).Beside(rates(c.driver), rates(c.floor))
	switch clients {
	case 1:
		return r.RatioAtLeast(0.4)
	case 32:
		return r.AtLeast(
			1000,
		).With("After a round with 32, %s volumes waited to be purged, and took %s ms (medians).",
			report.Number(report.SpreadOf(c.behind).Median), report.Number(report.SpreadOf(c.drain).Median))
	default:
		return r
	}
}

func rates(results []result) []float64 {
	all := make([]float64, 0, len(results))
	for _, r := range results {
		all = append(all, r.rate)
	}
	return all
}

// callRows compares medians of one round with those of the same round.
func callRows(c comparison) []report.Row {
	var rows []report.Row
	var slowest []string
	for s := range purge {
		var medians, worst, bottom []float64
		for i := range c.driver {
			medians, worst = append(medians,
				report.P50(c.driver[i].times(s))), append(worst, report.P99(c.driver[i].times(s)))
			bottom = append(bottom, report.P50(c.floor[i].times(s)))
		}
		slowest = append(slowest, s.String()+" "+report.Number(report.SpreadOf(worst).Median))
		r := report.NewRow(s.String()+", p50", "ms", medians)
		if s != stage && s != unstage { // nothing has to be done there
			r = r.Beside(medians, bottom)
		}
		if s == publish || s == unpublish {
			r = r.AtMost(0.5)
		}
		rows = append(rows, r)
	}
	rows[len(rows)-1].Note = "p99 of each, ms: " + strings.Join(slowest, ", ")
	return rows
}

// cpuOf is the processor time in milliseconds that each process has used (proc_pid_stat(5)).
func cpuOf(pids ...int) []float64 {
	const tick = 10 // USER_HZ is 100 on every architecture that Go knows
	used := make([]float64, len(pids))
	for i, pid := range pids {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // its process has ended, and its calls say so
		}
		_, rest, _ := strings.Cut(string(content), ") ")
		fields := strings.Fields(rest)
		// utime and stime, counted from the state, which is the third
		for _, field := range fields[11:13] {
			ticks, _ := strconv.ParseFloat(field, 64)
			used[i] += ticks * tick
		}
	}
	return used
}
