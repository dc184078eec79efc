package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// largeTimes has what each round of deleting a large volume came to.
type largeTimes struct{ call, callUnwritten, purge, direct, during []float64 }

// deleteLarge deletes volumes with many files: the call, and what the purger does afterwards.
func (b *bench) deleteLarge(ctx context.Context) error {
	p, _, err := b.driver(ctx, "delete")
	if err != nil {
		return err
	}
	var found largeTimes
	for range b.rounds {
		if err := b.deleteOnce(ctx, sockets{Process: p}, &found); err != nil {
			return err
		}
	}
	b.report.Chapter(
		fmt.Sprintf("DeleteVolume of %d files", b.files),
		report.NewRow("call", "ms", found.call).AtMost(10),
		report.NewRow("call, files not written to disk yet", "ms", found.callUnwritten),
		report.NewRow("purge in the background; floor: os.RemoveAll", "s",
			found.purge).Beside(found.purge, found.direct),
		report.NewRow("CreateVolume during the purge, p50", "ms", found.during),
	)
	return b.stop(p)
}

func (b *bench) deleteOnce(ctx context.Context, s sockets, found *largeTimes) error {
	call, err := b.deleteFilled(ctx, s, b.disk.settle)
	if err != nil {
		return err
	}
	start := time.Now()
	during, err := b.createWhilePurging(ctx, s)
	if err != nil {
		return err
	}
	found.call, found.purge = append(found.call,
		report.Milliseconds(call)), append(found.purge, time.Since(start).Seconds())
	found.during = append(found.during, report.P50(during))

	unwritten, err := b.deleteFilled(ctx, s, func() error { return nil })
	if err != nil {
		return err
	}
	found.callUnwritten = append(found.callUnwritten, report.Milliseconds(unwritten))
	if _, _, err := b.drain(ctx, "delete"); err != nil {
		return err
	}
	direct, err := b.removeDirectly(ctx)
	found.direct = append(found.direct, direct.Seconds())
	return err
}

// deleteFilled makes a volume, fills it, prepares and times the call.
func (b *bench) deleteFilled(
	ctx context.Context, s sockets, prepare func() error,
) (time.Duration, error) {
	name := volumeName()
	id, err := s.create(ctx, name)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(
		fill(ctx, filepath.Join(b.pool("delete"), "volumes", name, "data"), b.files),
		prepare(),
	); err != nil {
		return 0, err
	}
	start := time.Now()
	err = s.remove(ctx, id)
	return time.Since(start), err
}

// createWhilePurging makes volumes until the trash is empty.
func (b *bench) createWhilePurging(
	ctx context.Context, s sockets,
) (times []time.Duration, err error) {
	for {
		entries, err := os.ReadDir(filepath.Join(b.pool("delete"), "trash"))
		if err != nil || len(entries) == 0 {
			return times, err
		}
		start := time.Now()
		if _, err := s.create(ctx, volumeName()); err != nil {
			return nil, err
		}
		times = append(times, time.Since(start))
		time.Sleep(10 * time.Millisecond) // so that the purge is measured too
	}
}

// removeDirectly is the floor of the purge.
func (b *bench) removeDirectly(ctx context.Context) (time.Duration, error) {
	dir := b.pool("direct")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	if err := errors.Join(fill(ctx, dir, b.files), b.disk.settle()); err != nil {
		return 0, err
	}
	start := time.Now()
	err := os.RemoveAll(dir)
	return time.Since(start), err
}
