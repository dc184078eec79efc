package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

const (
	// enforcedLives is the part of --calls that a round takes of each kind.
	enforcedLives = 10
	// syncs is how often a pod syncs what it writes.
	syncs = 20
)

// stretch is a part of a volume's life with what its pod writes.
type stretch struct {
	name string
	do   func(context.Context, *life) error
}

// life is one volume in one pod.
type life struct {
	sockets
	id string
}

// stretches are in order. A sync in a directory commits the journal of the pool's disk, and in an
// image that of its own filesystem first.
var stretches = []stretch{
	{"CreateVolume", func(ctx context.Context, l *life) (err error) {
		l.id, err = l.createSized(ctx, volumeName(), volumeSize, nil)
		return err
	}},
	{"NodeStageVolume, the first", func(ctx context.Context, l *life) error {
		return l.stage(ctx, 0, l.id)
	}},
	{"NodePublishVolume", func(ctx context.Context, l *life) error { return l.publish(ctx, 0, l.id) }},
	{"a new file of 4 KiB, fsync", func(_ context.Context, l *life) error {
		return appendSynced(l.file(), 1)
	}},
	{"20 times 4 KiB more, each with fsync", func(_ context.Context, l *life) error {
		return appendSynced(l.file(), syncs)
	}},
	{"NodeUnpublishVolume", func(ctx context.Context, l *life) error {
		return l.unpublish(ctx, 0, l.id)
	}},
	{"NodeUnstageVolume", func(ctx context.Context, l *life) error {
		return l.unstage(ctx, 0, l.id)
	}},
	{"NodeStageVolume, again", func(ctx context.Context, l *life) error {
		return l.stage(ctx, 0, l.id)
	}},
	{"NodeUnstageVolume, again", func(ctx context.Context, l *life) error {
		return l.unstage(ctx, 0, l.id)
	}},
	{"DeleteVolume", func(ctx context.Context, l *life) error { return l.remove(ctx, l.id) }},
}

func (l *life) file() string { return filepath.Join(l.target(0), "data") }

// appendSynced appends so many blocks, and syncs after each.
func appendSynced(path string, times int) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for range times {
		_, err := f.Write(content)
		if err = errors.Join(err, f.Sync()); err != nil {
			return err
		}
	}
	return nil
}

// enforced goes through the lives of volumes of backing: enforced beside those of directories. In a
// pool without quotas the former are images.
func (b *bench) enforced(ctx context.Context) error {
	p, _, err := b.driver(ctx, "enforced")
	if err != nil {
		return err
	}
	s, err := newSockets(p, 1)
	if err != nil {
		return err
	}
	kinds := []volume.Backing{volume.EnforcedBacking, "directory"}
	found := make([][2][]float64, len(stretches)+1)
	for round := range b.rounds {
		for turn := range kinds {
			kind := (round + turn) % len(kinds)
			medians, err := b.live(ctx, s, kinds[kind])
			if err != nil {
				return err
			}
			for i, median := range medians {
				found[i][kind] = append(found[i][kind], median)
			}
		}
	}
	var rows []report.Row
	for i, step := range append(slices.Clone(stretches), stretch{name: "all of it"}) {
		rows = append(rows,
			report.NewRow(step.name, "ms", found[i][0]).Beside(found[i][0], found[i][1]))
	}
	b.report.Chapter("A volume of backing: enforced; floor: one of backing: directory", rows...)
	return b.stop(p)
}

// live has the median of each stretch of some lives, and that of whole lives.
func (b *bench) live(
	ctx context.Context, s sockets, kind volume.Backing,
) (medians []float64, err error) {
	times := make([][]time.Duration, len(stretches)+1)
	s.class = map[string]string{volume.ParamBacking: string(kind)}
	for range max(1, b.calls/enforcedLives) {
		l := life{sockets: s}
		begin := time.Now()
		for i, step := range stretches {
			start := time.Now()
			if err := step.do(ctx, &l); err != nil {
				return nil, err
			}
			times[i] = append(times[i], time.Since(start))
		}
		times[len(stretches)] = append(times[len(stretches)], time.Since(begin))
	}
	for _, t := range times {
		medians = append(medians, report.P50(t))
	}
	_, _, err = b.drain(ctx, "enforced")
	return medians, err
}
