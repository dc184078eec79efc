package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"

	"github.com/csi-hostpath/csi-hostpath/test/process"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

const (
	fewVolumes = 100
	pageSize   = 100
	readers    = 32
)

// createBesideMany compares CreateVolume in a small and in a large pool, call by call in turn.
func (b *bench) createBesideMany(ctx context.Context) error {
	many := b.volumes / 10
	if err := errors.Join(
		b.populate(ctx, "few", fewVolumes),
		b.populate(ctx, "many", many),
	); err != nil {
		return err
	}
	var pools [2]sockets
	for i, name := range []string{"few", "many"} {
		p, _, err := b.driver(ctx, name)
		if err != nil {
			return err
		}
		pools[i] = sockets{Process: p}
	}
	if err := b.checkPopulation(ctx, pools[1].Process, many); err != nil {
		return err
	}
	var few, lots []float64
	for range b.rounds {
		times, err := createInTurn(ctx, pools, b.calls, "DirectoryOrCreate")
		if err != nil {
			return err
		}
		few, lots = append(few, report.P50(times[0])), append(lots, report.P50(times[1]))
	}
	b.report.Chapter(
		"CreateVolume in a large pool",
		report.NewRow(
			fmt.Sprintf("p50 with %d volumes; floor: with %d", many, fewVolumes),
			"ms",
			lots,
		).Beside(
			lots,
			few,
		).RatioAtMost(
			1.3,
		),
	)
	return errors.Join(b.stop(pools[0].Process), b.stop(pools[1].Process))
}

// createInTurn makes volumes and deletes each at once, so that the pools keep their sizes.
func createInTurn(
	ctx context.Context, pools [2]sockets, calls int, kind string,
) (times [2][]time.Duration, err error) {
	for range calls {
		for i, s := range pools {
			start := time.Now()
			id, err := s.createKind(ctx, volumeName(), kind)
			times[i] = append(times[i], time.Since(start))
			if err != nil {
				return times, err
			}
			if err := s.remove(ctx, id); err != nil {
				return times, err
			}
		}
	}
	return times, nil
}

// idle measures a driver that has nothing to do.
func (b *bench) idle(ctx context.Context) error {
	var starts, resident []float64
	for range b.rounds {
		p, took, err := b.driver(ctx, "idle")
		if err != nil {
			return err
		}
		rss, _, err := process.Memory(p.PID())
		if err := errors.Join(err, b.stop(p)); err != nil {
			return err
		}
		starts, resident = append(starts, took.Seconds()), append(resident, rss)
	}
	b.report.Chapter("A driver without volumes", report.NewRow("start until ready", "s", starts),
		report.NewRow("resident", "MiB", resident).AtMost(30))
	return nil
}

// startWithMany measures the start with a large pool, and what the driver can do then.
func (b *bench) startWithMany(ctx context.Context) error {
	if err := b.populate(ctx, "large", b.volumes); err != nil {
		return err
	}
	var warm, cold starts
	for range b.rounds {
		if err := b.startCold(ctx, &cold); err != nil {
			return err
		}
		if err := errors.Join(b.startOnce(ctx, &warm), b.readOnce(&warm)); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("start with %d volumes until ready", b.volumes)
	rows := []report.Row{
		report.NewRow(name+", cached; floor: read each record", "s",
			warm.seconds).Beside(warm.seconds, warm.floor).AtMost(5),
		report.NewRow("resident after it", "MiB", warm.resident).AtMost(200),
		report.NewRow("at most during it", "MiB", warm.peak),
	}
	if len(cold.seconds) > 0 {
		rows = append([]report.Row{
			report.NewRow(name+", as after a reboot; floor: the same", "s",
				cold.seconds).Beside(cold.seconds, cold.floor).AtMost(5),
		}, rows...)
	}
	b.report.Chapter("A large pool", rows...)
	return b.pages(ctx)
}

// starts has what each start came to, and the floor of its time.
type starts struct{ seconds, floor, resident, peak []float64 }

// startCold measures with empty caches, where they can be emptied.
func (b *bench) startCold(ctx context.Context, s *starts) error {
	for _, measure := range []func() error{
		func() error { return b.startOnce(ctx, s) },
		func() error { return b.readOnce(s) },
	} {
		if isCold, err := b.disk.cool(ctx); err != nil || !isCold {
			return err
		}
		if err := measure(); err != nil {
			return err
		}
	}
	return nil
}

// readOnce reads every record with as many readers as keep a disk busy: a driver without a second
// store has to.
func (b *bench) readOnce(s *starts) error {
	start := time.Now()
	volumes := filepath.Join(b.pool("large"), "volumes")
	entries, err := os.ReadDir(volumes)
	if err != nil {
		return err
	}
	var group errgroup.Group
	for part := range slices.Chunk(entries, (len(entries)+readers-1)/readers) {
		group.Go(func() error {
			for _, entry := range part {
				if _, err := os.ReadFile(filepath.Join(volumes, entry.Name(), "volume.json")); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = group.Wait()
	s.floor = append(s.floor, time.Since(start).Seconds())
	return err
}

func (b *bench) startOnce(ctx context.Context, s *starts) error {
	p, took, err := b.driver(ctx, "large")
	if err != nil {
		return err
	}
	resident, peak, err := process.Memory(p.PID())
	s.seconds, s.resident, s.peak = append(s.seconds,
		took.Seconds()), append(s.resident, resident), append(s.peak, peak)
	return errors.Join(err, b.checkPopulation(ctx, p, b.volumes), b.stop(p))
}

// pages compares a page of the large pool with one of a small pool, and with a call that does
// nothing.
func (b *bench) pages(ctx context.Context) error {
	p, _, err := b.driver(ctx, "large")
	if err != nil {
		return err
	}
	small, _, err := b.driver(ctx, "small")
	if err != nil {
		return err
	}
	for range 2 * pageSize {
		if _, err := (sockets{Process: small}).create(ctx, volumeName()); err != nil {
			return err
		}
	}
	var large, few, probe []float64
	for range b.rounds {
		l, err := timeOf(b.calls, func() error { return page(ctx, p, b.middle(ctx, p)) })
		if err != nil {
			return err
		}
		s, err := timeOf(b.calls, func() error { return page(ctx, small, "") })
		if err != nil {
			return err
		}
		n, err := timeOf(b.calls,
			func() error { _, err := p.Identity.Probe(ctx, &csi.ProbeRequest{}); return err })
		if err != nil {
			return err
		}
		large, few, probe = append(large, l), append(few, s), append(probe, n)
	}
	b.report.Chapter(
		"ListVolumes",
		report.NewRow(fmt.Sprintf("page of %d of %d, p50; floor: of %d", pageSize, b.volumes, 2*pageSize), "ms",
			large).Beside(large, few).AtMost(2),
		report.NewRow("a call that does nothing (Probe), p50", "ms", probe),
	)
	return errors.Join(b.stop(p), b.stop(small))
}

// middle is a token from within the large pool; it names a volume that nobody need have.
func (b *bench) middle(ctx context.Context, p *process.Process) string {
	resp, err := p.Controller.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: 1})
	if err != nil {
		return ""
	}
	prefix, _, _ := strings.Cut(resp.GetEntries()[0].GetVolume().GetVolumeId(), "-")
	return fmt.Sprintf("%s-pvc-b3a1e5c0-0000-4000-8000-%012x", prefix,
		serial.Load()-int64(b.volumes/2))
}

func page(ctx context.Context, p *process.Process, token string) error {
	resp, err := p.Controller.ListVolumes(ctx,
		&csi.ListVolumesRequest{MaxEntries: pageSize, StartingToken: token})
	if err == nil && len(resp.GetEntries()) != pageSize {
		err = fmt.Errorf("page has %d volumes, want %d", len(resp.GetEntries()), pageSize)
	}
	return err
}

// timeOf is the median of many calls, in milliseconds.
func timeOf(calls int, call func() error) (float64, error) {
	times := make([]time.Duration, 0, calls)
	for range calls {
		start := time.Now()
		if err := call(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start))
	}
	return report.P50(times), nil
}
