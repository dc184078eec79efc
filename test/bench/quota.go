package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/plain"
	"github.com/csi-hostpath/csi-hostpath/pkg/backend/projquota"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
	"github.com/csi-hostpath/csi-hostpath/test/process"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// quotas measures what it takes to hold a volume to its size: by itself, and in CreateVolume where
// the filesystem has quotas. Without, there is what they would be beside.
func (b *bench) quotas(ctx context.Context) error {
	root, err := os.Open(b.disk.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	backends := []backend.Backend{plain.Plain{}}
	projects, ok, err := projquota.Open(root, projquota.Enforce)
	if err != nil {
		return err
	}
	if ok {
		backends = append(backends, projects)
	}
	if err := b.setUpData(ctx, backends); err != nil || !ok && b.fs != "btrfs" {
		return err
	}
	return b.quotaShare(ctx)
}

// quotaShare makes volumes with quotas and without, in turn.
func (b *bench) quotaShare(ctx context.Context) error {
	with, _, err := b.driver(ctx, "limited")
	if err != nil {
		return err
	}
	without, err := b.unlimited(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []string{"DirectoryOrCreate", "FileOrCreate"} {
		var limited, unlimited, difference, part []float64
		for range b.rounds {
			times, err := b.createThenDelete(ctx, [2]sockets{{Process: with}, {Process: without}}, kind)
			if err != nil {
				return err
			}
			more := report.P50(times[0]) - report.P50(times[1])
			limited = append(limited, report.P50(times[0]))
			unlimited = append(unlimited, report.P50(times[1]))
			difference, part = append(difference, more), append(part, 100*more/report.P50(times[0]))
		}
		b.report.Chapter("Quotas in CreateVolume, "+kind,
			report.NewRow("p50; floor: quota off", "ms", limited).Beside(limited, unlimited),
			report.NewRow("more than without, p50", "ms", difference).AtMost(0.3),
			report.NewRow("- of CreateVolume", "%", part))
	}
	return errors.Join(b.stop(with), b.stop(without))
}

// createThenDelete makes volumes in turn, and deletes them when all are made: a purge takes longer
// where the filesystem has to let go of a quota, and is no part of CreateVolume.
func (b *bench) createThenDelete(
	ctx context.Context, pools [2]sockets, kind string,
) (times [2][]time.Duration, err error) {
	var made [2][]string
	for range b.calls {
		for i, s := range pools {
			start := time.Now()
			id, err := s.createKind(ctx, volumeName(), kind)
			times[i] = append(times[i], time.Since(start))
			if err != nil {
				return times, err
			}
			made[i] = append(made[i], id)
		}
	}
	for i, name := range []string{"limited", "unlimited"} {
		for _, id := range made[i] {
			if err := pools[i].remove(ctx, id); err != nil {
				return times, err
			}
		}
		if _, _, err := b.drain(ctx, name); err != nil {
			return times, err
		}
	}
	return times, nil
}

// unlimited is a driver whose volumes have no quotas.
func (b *bench) unlimited(ctx context.Context) (*process.Process, error) {
	dir := filepath.Join(b.node.dir, "run-unlimited")
	if err := errors.Join(
		os.MkdirAll(dir, 0o755),
		os.MkdirAll(b.pool("unlimited"), 0o755),
	); err != nil {
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

// setUps are the medians of the rounds: of making the data of a volume, and of that and its fsync.
type setUps struct{ made, synced []float64 }

// setUpData makes the data of volumes without the driver around it, by each backend in turn: in a
// CreateVolume of milliseconds a difference of microseconds does not show. The first one is what
// the second has its quotas besides.
func (b *bench) setUpData(ctx context.Context, backends []backend.Backend) error {
	found := make([]setUps, len(backends))
	for range b.rounds {
		made, synced := make([][]time.Duration, len(backends)), make([][]time.Duration, len(backends))
		for range b.calls {
			for i, by := range backends {
				call, all, err := b.setUpOnce(ctx, by)
				if err != nil {
					return err
				}
				made[i], synced[i] = append(made[i], call), append(synced[i], all)
			}
		}
		for i := range found {
			found[i].made, found[i].synced = append(found[i].made,
				report.P50(made[i])), append(found[i].synced, report.P50(synced[i]))
		}
	}
	b.report.Chapter("A directory for a volume, without the driver", setUpRows(found)...)
	return nil
}

// setUpOnce removes what it has made, and its quota.
func (b *bench) setUpOnce(
	ctx context.Context, by backend.Backend,
) (made, synced time.Duration, err error) {
	path := b.pool(volumeName())
	if err := os.Mkdir(path, 0o700); err != nil {
		return 0, 0, err
	}
	dir, err := openat.OpenDir(path)
	if err != nil {
		return 0, 0, err
	}
	defer dir.Close()
	start := time.Now()
	data, quotaID, err := by.Make(dir, volume.Spec{Type: volume.DirectoryOrCreate, Mode: 0o755},
		volumeSize)
	made = time.Since(start)
	if err != nil {
		return 0, 0, err
	}
	err = data.Sync()
	synced = time.Since(start)
	if err := errors.Join(err, data.Close(), os.RemoveAll(path)); err != nil {
		return 0, 0, err
	}
	return made, synced, release(ctx, by, quotaID)
}

// release waits until the filesystem has removed what had the quota ID.
func release(ctx context.Context, by backend.Backend, quotaID volume.QuotaID) error {
	for {
		if err := by.Release(quotaID); !errors.Is(err, backend.ErrPending) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func setUpRows(found []setUps) []report.Row {
	bare := found[0]
	rows := []report.Row{
		report.NewRow("mkdir, open, chown, chmod", "ms", bare.made),
		report.NewRow("- and fsync", "ms", bare.synced),
	}
	for _, limited := range found[1:] {
		calls, all := differences(limited.made, bare.made), differences(limited.synced, bare.synced)
		rows = append(rows,
			report.NewRow("more with a project quota; floor: those calls", "ms",
				calls).Beside(calls, bare.made),
			report.NewRow("- and fsync; floor: those calls and fsync", "ms", all).Beside(all, bare.synced))
	}
	return rows
}

// differences subtract round by round.
func differences(a, b []float64) []float64 {
	all := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		all = append(all, a[i]-b[i])
	}
	return all
}
