package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/process"
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
	for _, of := range []struct{ name, fsType string }{{"a directory", ""}, {"an image with XFS", "xfs"}} {
		medians, err := b.statsOfOne(ctx, s.capable(mounted(of.fsType)))
		if err != nil {
			return err
		}
		b.report.chapter("Numbers about a volume: "+of.name,
			newRow(fmt.Sprintf("NodeGetVolumeStats with %d files, p50", b.files), "ms", medians).atMost(0.5))
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
		medians = append(medians, p50(times))
	}
	return medians, v.remove(ctx)
}

// quotaShare makes volumes with quotas and without, in turn, where the filesystem has them at once.
func (b *bench) quotaShare(ctx context.Context) error {
	if b.fs != "btrfs" {
		return nil
	}
	with, _, err := b.driver(ctx, "limited")
	if err != nil {
		return err
	}
	without, err := b.unlimited(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []string{"DirectoryOrCreate", "FileOrCreate"} {
		var limited, unlimited, difference []float64
		for range b.rounds {
			times, err := createInTurn(ctx, [2]sockets{{Process: with}, {Process: without}}, b.calls, kind)
			if err != nil {
				return err
			}
			limited, unlimited = append(limited, p50(times[0])), append(unlimited, p50(times[1]))
			difference = append(difference, p50(times[0])-p50(times[1]))
		}
		b.report.chapter("Quotas in CreateVolume, "+kind,
			newRow("p50; floor: quota off", "ms", limited).beside(limited, unlimited),
			newRow("more than without, p50", "ms", difference).atMost(0.3))
	}
	return errors.Join(b.stop(with), b.stop(without))
}

// unlimited is a driver whose volumes have no quotas.
func (b *bench) unlimited(ctx context.Context) (*process.Process, error) {
	dir := filepath.Join(b.node.dir, "run-unlimited")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(b.pool("unlimited"), 0o755)); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "driver.yaml")
	text := "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n" +
		"pools:\n  - name: default\n    quota: \"off\"\n    path: " + b.pool("unlimited") + "\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return b.configured(ctx, dir, config)
}
