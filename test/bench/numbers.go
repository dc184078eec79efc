package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// statsOfMany asks for the numbers of volumes with many files, in turn.
func (b *bench) statsOfMany(ctx context.Context) error {
	p, _, err := b.driver(ctx, "stats")
	if err != nil {
		return err
	}
	s, err := newSockets(p, 1)
	if err != nil {
		return err
	}
	for _, of := range []struct{ name, fsType string }{
		{"a directory", ""}, {"an image with XFS", "xfs"},
	} {
		medians, err := b.statsOfOne(ctx, s.capable(mounted(of.fsType)))
		if err != nil {
			return err
		}
		b.report.Chapter("Numbers about a volume: "+of.name,
			report.NewRow(fmt.Sprintf("NodeGetVolumeStats with %d files, p50", b.files), "ms",
				medians).AtMost(0.5))
	}
	return b.stop(p)
}

func (b *bench) statsOfOne(ctx context.Context, s sockets) (medians []float64, err error) {
	v, err := b.publishNew(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(fill(ctx, s.target(0), b.files), b.disk.settle()); err != nil {
		return nil, err
	}
	for range b.rounds {
		var times []time.Duration
		for range b.calls {
			start := time.Now()
			if err := s.stats(ctx, 0, v.id); err != nil {
				return nil, err
			}
			times = append(times, time.Since(start))
		}
		medians = append(medians, report.P50(times))
	}
	return medians, v.remove(ctx)
}
