package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// published is a volume as a pod has it.
type published struct {
	sockets
	id string
}

func (b *bench) publishNew(ctx context.Context, s sockets) (published, error) {
	id, err := s.createSized(ctx, volumeName(), volumeSize, nil)
	if err != nil {
		return published{}, err
	}
	return published{s, id}, errors.Join(s.stage(ctx, 0, id), s.publish(ctx, 0, id))
}

func (v published) remove(ctx context.Context) error {
	return errors.Join(v.unpublish(ctx, 0, v.id), v.unstage(ctx, 0, v.id), v.sockets.remove(ctx, v.id))
}

func (b *bench) writeToDirectory(ctx context.Context) error {
	return b.writeToVolume(ctx, "a directory", mounted(""), slices.Concat(patterns, allocating), 0.97)
}

func (b *bench) writeToExt4(ctx context.Context) error {
	return b.writeToVolume(ctx, "an image with ext4", mounted("ext4"), patterns, 0.85)
}

func (b *bench) writeToXFS(ctx context.Context) error {
	return b.writeToVolume(ctx, "an image with XFS", mounted("xfs"), patterns, 0.85)
}

// writeToBlock writes to the loop device of an image itself: whatever is mounted in one cannot be
// faster.
func (b *bench) writeToBlock(ctx context.Context) error {
	return b.writeToVolume(ctx, "a raw block volume", rawBlock(), patterns, 0.85)
}

// writeToVolume writes to a published volume in every way of ways; ratio is to reach.
func (b *bench) writeToVolume(
	ctx context.Context, what string, capability *csi.VolumeCapability, ways []pattern, ratio float64,
) error {
	p, _, err := b.driver(ctx, "io")
	if err != nil {
		return err
	}
	s, err := newSockets(p, 1)
	if err != nil {
		return err
	}
	v, err := b.publishNew(ctx, s.capable(capability))
	if err != nil {
		return err
	}
	path := s.target(0)
	if capability.GetMount() != nil {
		path = filepath.Join(path, "fio")
	}
	rows, err := b.writeInTurn(ctx, path, ways)
	if err != nil {
		return err
	}
	for i := range rows {
		rows[i] = rows[i].RatioAtLeast(ratio)
	}
	b.report.Chapter("Writing to "+what+"; floor: to the pool's disk", rows...)
	return errors.Join(v.remove(ctx), b.stop(p))
}

// writeInTurn writes to a path and to a file of the pool's disk. Each round lays out both anew,
// because where the disk has them makes a difference of its own, and begins with the other one.
func (b *bench) writeInTurn(
	ctx context.Context, path string, ways []pattern,
) ([]report.Row, error) {
	paths := [2]string{path, filepath.Join(b.disk.dir, "io-floor")}
	found := make([][2][]float64, len(ways))
	for round := range b.rounds {
		first, second := round%2, 1-round%2
		if err := errors.Join(
			layOut(ctx, paths[first]),
			layOut(ctx, paths[second]),
			b.disk.settle(),
		); err != nil {
			return nil, err
		}
		for i, pattern := range ways {
			for _, turn := range []int{first, second} {
				value, err := pattern.measure(ctx, paths[turn], b.duration)
				if err != nil {
					return nil, err
				}
				found[i][turn] = append(found[i][turn], value)
			}
		}
	}
	var rows []report.Row
	for i, pattern := range ways {
		rows = append(rows,
			report.NewRow(pattern.name, pattern.unit, found[i][0]).Beside(found[i][0], found[i][1]))
	}
	return rows, os.Remove(paths[1])
}
