package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/process"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// snapshotHuge measures two snapshots of a volume of many files: one by itself, and one with calls
// on other volumes meanwhile.
func (b *bench) snapshotHuge(ctx context.Context) error {
	p, _, err := b.driver(ctx, "snapshot")
	if err != nil {
		return err
	}
	s := sockets{Process: p}
	c := filling{files: b.files, bytes: 4 << 10}
	from, err := b.fillVolume(ctx, s, c)
	if err != nil {
		return err
	}
	begin := time.Now()
	alone, err := s.snapshot(ctx, from.id)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	_, most, err := process.Memory(p.PID())
	if err != nil {
		return err
	}
	rows, err := b.disturbHuge(ctx, s, from)
	if err != nil {
		return err
	}
	b.report.Chapter(
		fmt.Sprintf("Snapshot of a volume of %d files of %d KiB; floor: idle", c.files, c.bytes>>10),
		append([]report.Row{
			report.NewRow("CreateSnapshot, nothing else to do", "s", []float64{took.Seconds()}),
			report.NewRow("- files", "1/s", []float64{float64(c.files) / took.Seconds()}),
			report.NewRow("- driver resident, at most", "MiB", []float64{most}),
		}, rows...)...)
	if err := errors.Join(s.removeSnapshot(ctx, alone), s.remove(ctx, from.id)); err != nil {
		return err
	}
	return b.stop(p)
}

// disturbHuge calls for other volumes, idle and then until a snapshot has been taken.
func (b *bench) disturbHuge(ctx context.Context, s sockets, from source) ([]report.Row, error) {
	other, err := newSockets(s.Process, 1)
	if err != nil {
		return nil, err
	}
	if err := b.disk.settle(); err != nil {
		return nil, err
	}
	idle, err := b.callOthers(ctx, other, time.Now().Add(b.duration))
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	begin := time.Now()
	go func() {
		id, err := s.snapshot(ctx, from.id)
		if err == nil {
			err = s.removeSnapshot(ctx, id)
		}
		ended <- err
	}()
	var busy callTimes
	for {
		some, err := b.callOthers(ctx, other, time.Now().Add(b.duration))
		if err != nil {
			return nil, errors.Join(err, <-ended)
		}
		busy = busy.and(some)
		select {
		case err := <-ended:
			took := report.NewRow("CreateSnapshot, with calls on other volumes", "s",
				[]float64{time.Since(begin).Seconds()})
			return append([]report.Row{took}, disturbanceRows([]callTimes{idle}, []callTimes{busy})...), err
		default:
		}
	}
}
