package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// minimumCalls are those of which a p99 is taken at least.
const minimumCalls = 300

// callTimes has what calls on another volume took.
type callTimes struct{ stats, publish, create []time.Duration }

func (c callTimes) and(d callTimes) callTimes {
	return callTimes{
		append(c.stats, d.stats...),
		append(c.publish, d.publish...),
		append(c.create, d.create...),
	}
}

// disturb measures calls on another volume, idle and while one snapshot after the other is taken,
// in turn.
func (b *bench) disturb(ctx context.Context, s sockets) error {
	other, err := newSockets(s.Process, 1)
	if err != nil {
		return err
	}
	for _, c := range []filling{b.large(), b.small()} {
		from, err := b.fillVolume(ctx, s, c)
		if err != nil {
			return err
		}
		var idle, busy []callTimes
		var copies []float64
		for range b.rounds {
			if err := b.disk.settle(); err != nil {
				return err
			}
			calm, err := b.callOthers(ctx, other, time.Now().Add(b.duration))
			if err != nil {
				return err
			}
			disturbed, took, err := b.callOthersMeanwhile(ctx, other, from)
			if err != nil {
				return err
			}
			idle, busy = append(idle, calm), append(busy, disturbed)
			copies = append(copies, report.P50(took))
		}
		b.report.Chapter("Calls on another volume while snapshots are taken: "+c.name+"; floor: idle",
			append(disturbanceRows(idle, busy), report.NewRow("CreateSnapshot meanwhile", "ms", copies))...)
		if err := s.remove(ctx, from.id); err != nil {
			return err
		}
	}
	return nil
}

func disturbanceRows(idle, busy []callTimes) []report.Row {
	var rows []report.Row
	for _, call := range []struct {
		name string
		of   func(callTimes) []time.Duration
	}{
		{"NodeGetVolumeStats", func(c callTimes) []time.Duration { return c.stats }},
		{"NodePublishVolume", func(c callTimes) []time.Duration { return c.publish }},
		{"CreateVolume", func(c callTimes) []time.Duration { return c.create }},
	} {
		for _, q := range []struct {
			name string
			of   func([]time.Duration) float64
		}{{"p50", report.P50}, {"p99", report.P99}} {
			var calm, disturbed []float64
			for i := range idle {
				calm, disturbed = append(calm,
					q.of(call.of(idle[i]))), append(disturbed, q.of(call.of(busy[i])))
			}
			r := report.NewRow(call.name+", "+q.name, "ms", disturbed).Beside(disturbed, calm)
			if q.name == "p99" {
				r = r.RatioAtMost(2)
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// callOthers goes through cycles of another volume until the time is up and there are enough.
func (b *bench) callOthers(ctx context.Context, s sockets, until time.Time) (callTimes, error) {
	var times callTimes
	for len(times.stats) < min(minimumCalls, b.calls) || time.Now().Before(until) {
		l, err := s.cycle(ctx, 0, volumeName())
		if err != nil {
			return times, err
		}
		times.stats = append(times.stats, l[stats])
		times.publish = append(times.publish, l[publish])
		times.create = append(times.create, l[create])
	}
	return times, nil
}

// callOthersMeanwhile does it while snapshots are taken, and says how long each of those took.
func (b *bench) callOthersMeanwhile(
	ctx context.Context, s sockets, from source,
) (calls callTimes, copies []time.Duration, err error) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() { copies, failed = b.takeSnapshots(ctx, s, from, stop) })
	calls, err = b.callOthers(ctx, s, time.Now().Add(b.duration))
	close(stop)
	wg.Wait()
	return calls, copies, errors.Join(err, failed)
}

// keptSnapshots is how many there is room for.
const keptSnapshots = 8

// takeSnapshots takes one after the other, and removes them when they are too many, and in the end.
func (b *bench) takeSnapshots(
	ctx context.Context, s sockets, from source, stop <-chan struct{},
) (took []time.Duration, err error) {
	var taken []string
	for {
		begin := time.Now()
		id, err := s.snapshot(ctx, from.id)
		if err != nil {
			return took, err
		}
		taken, took = append(taken, id), append(took, time.Since(begin))
		select {
		case <-stop:
			return took, b.removeSnapshots(ctx, s, taken)
		default:
		}
		if len(taken) == keptSnapshots {
			if err := b.removeSnapshots(ctx, s, taken); err != nil {
				return took, err
			}
			taken = nil
		}
	}
}

func (b *bench) removeSnapshots(ctx context.Context, s sockets, ids []string) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, s.removeSnapshot(ctx, id))
	}
	_, _, err := b.drain(ctx, "snapshot")
	return errors.Join(append(errs, err)...)
}
