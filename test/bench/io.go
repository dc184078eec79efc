package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// inputOutput measures what a pod gets: writing to its volume beside writing to the pool's disk, and the numbers about the volume.
func (b *bench) inputOutput(ctx context.Context) error {
	p, _, err := b.driver(ctx, "io")
	if err != nil {
		return err
	}
	s, err := newSockets(p, 1)
	if err != nil {
		return err
	}
	if err := b.compareWriting(ctx, s); err != nil {
		return err
	}
	if err := b.statsOfMany(ctx, s); err != nil {
		return err
	}
	if b.fs == "btrfs" {
		if err := b.quotaShare(ctx, s); err != nil {
			return err
		}
	}
	return b.stop(p)
}

// published is a volume as a pod has it.
type published struct {
	sockets
	id string
}

func (b *bench) publishNew(ctx context.Context, s sockets, parameters map[string]string) (published, error) {
	id, err := s.createSized(ctx, volumeName(), parameters, nil)
	if err != nil {
		return published{}, err
	}
	return published{s, id}, errors.Join(s.stage(ctx, 0, id), s.publish(ctx, 0, id))
}

func (v published) remove(ctx context.Context) error {
	return errors.Join(v.unpublish(ctx, 0, v.id), v.unstage(ctx, 0, v.id), v.sockets.remove(ctx, v.id))
}

// compareWriting writes to a volume of each backing and to the pool's disk.
func (b *bench) compareWriting(ctx context.Context, s sockets) error {
	for _, backing := range []struct {
		name  string
		ratio float64 // to reach
	}{{"directory", 0.97}, {"image", 0.85}} {
		rows, err := b.writeInTurn(ctx, s, backing.name, backing.ratio)
		if err != nil {
			return err
		}
		b.report.chapter("Writing to a published volume, backing: "+backing.name+" (fio, direct I/O); floor: to the pool's disk", rows...)
	}
	return nil
}

// writeInTurn begins with the other one each time.
func (b *bench) writeInTurn(ctx context.Context, s sockets, backing string, ratio float64) ([]row, error) {
	v, err := b.publishNew(ctx, s, map[string]string{"backing": backing})
	if err != nil {
		return nil, err
	}
	direct := b.pool("io-direct")
	if err := os.Mkdir(direct, 0o755); err != nil {
		return nil, err
	}
	dirs := []string{s.target(0), direct}
	if err := errors.Join(layOut(ctx, dirs[0]), layOut(ctx, dirs[1])); err != nil {
		return nil, err
	}
	var rows []row
	for _, pattern := range patterns {
		var found [2][]float64
		for round := range b.rounds {
			for turn := range dirs {
				i := (round + turn) % len(dirs)
				value, err := pattern.measure(ctx, dirs[i], b.duration)
				if err != nil {
					return nil, err
				}
				found[i] = append(found[i], value)
			}
		}
		rows = append(rows, newRow(pattern.name, pattern.unit, found[0]).beside(found[0], found[1]).ratioAtLeast(ratio))
	}
	return rows, errors.Join(v.remove(ctx), os.RemoveAll(direct))
}

// statsOfMany asks for the numbers of a volume with many files.
func (b *bench) statsOfMany(ctx context.Context, s sockets) error {
	v, err := b.publishNew(ctx, s, nil)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(ctx, s.target(0), b.files), b.disk.settle()); err != nil {
		return err
	}
	var medians []float64
	for range b.rounds {
		var times []time.Duration
		for range b.calls {
			start := time.Now()
			if err := s.stats(ctx, 0, v.id); err != nil {
				return err
			}
			times = append(times, time.Since(start))
		}
		medians = append(medians, p50(times))
	}
	b.report.chapter("Numbers about a volume",
		newRow(fmt.Sprintf("NodeGetVolumeStats with %d files, p50", b.files), "ms", medians).atMost(0.5))
	return v.remove(ctx)
}

// quotaShare makes volumes with quotas and without, in turn.
func (b *bench) quotaShare(ctx context.Context, with sockets) error {
	dir := filepath.Join(b.node.dir, "run-unlimited")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(b.pool("unlimited"), 0o755)); err != nil {
		return err
	}
	config := filepath.Join(dir, "driver.yaml")
	text := "apiVersion: hostpath.csi.local/v1\nkind: DriverConfiguration\n" +
		"pools:\n  - name: default\n    quota: \"off\"\n    path: " + b.pool("unlimited") + "\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	p, err := b.configured(ctx, dir, config)
	if err != nil {
		return err
	}
	var limited, unlimited, difference []float64
	for range b.rounds {
		times, err := createInTurn(ctx, [2]sockets{with, {p}}, b.calls)
		if err != nil {
			return err
		}
		limited, unlimited = append(limited, p50(times[0])), append(unlimited, p50(times[1]))
		difference = append(difference, p50(times[0])-p50(times[1]))
	}
	b.report.chapter("Quotas in CreateVolume",
		newRow("p50; floor: quota off", "ms", limited).beside(limited, unlimited),
		newRow("more than without, p50", "ms", difference).atMost(0.3))
	return b.stop(p)
}
