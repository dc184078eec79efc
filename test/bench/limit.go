package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/process"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// chartLimit is the memory that the chart gives the driver's container (values.yaml).
const chartLimit = 256 << 20

// startWithinLimit starts the driver with many volumes and many snapshots in a control group of the
// chart's memory limit: whoever can make that many must not be able to keep the driver down.
func (b *bench) startWithinLimit(ctx context.Context) error {
	if err := b.populateOnce(ctx, "large"); err != nil {
		return err
	}
	if err := b.populateSnapshots(ctx, "large", b.snapshotCount); err != nil {
		return err
	}
	group, err := newMemoryGroup(filepath.Base(b.dir))
	if errors.Is(err, os.ErrNotExist) { // a virtual machine may have no control groups
		return nil
	}
	if err != nil {
		return err
	}
	var s starts
	for range b.rounds {
		if err := b.startInGroup(ctx, group, &s); err != nil {
			return errors.Join(err, group.remove())
		}
	}
	peak, err := group.peak()
	if err := errors.Join(err, group.remove()); err != nil {
		return err
	}
	b.report.Chapter(
		fmt.Sprintf("A large pool within %d MiB: %d volumes, %d snapshots", chartLimit>>20, b.volumes,
			b.snapshotCount),
		report.NewRow("start until ready, cached", "s", s.seconds).AtMost(5),
		report.NewRow("resident after it", "MiB", s.resident).AtMost(200),
		report.NewRow("at most during it", "MiB", s.peak),
		report.NewRow("the control group, at most", "MiB", []float64{peak}).AtMost(chartLimit>>20),
	)
	return nil
}

// populateOnce is populate unless an earlier benchmark has done it.
func (b *bench) populateOnce(ctx context.Context, poolName string) error {
	_, err := os.Stat(filepath.Join(b.pool(poolName), "pool.json"))
	if errors.Is(err, os.ErrNotExist) {
		return b.populate(ctx, poolName, b.volumes)
	}
	return err
}

func (b *bench) startInGroup(ctx context.Context, group memoryGroup, s *starts) error {
	start := time.Now()
	p, err := b.start(ctx, process.Options{
		Dir: b.runDir("large"), Pools: map[string]string{"default": b.pool("large")},
		ControlGroup: group.dir,
	})
	if err != nil {
		return err
	}
	took := time.Since(start)
	resident, peak, err := process.Memory(p.PID())
	s.seconds, s.resident, s.peak = append(s.seconds, took.Seconds()), append(s.resident, resident),
		append(s.peak, peak)
	return errors.Join(err, b.checkPopulation(ctx, p, b.volumes),
		b.checkSnapshots(ctx, p, b.snapshotCount), b.stop(p))
}

// populateSnapshots gives a pool n snapshots of its volumes, as populate makes volumes.
func (b *bench) populateSnapshots(ctx context.Context, poolName string, n int) error {
	sources, err := os.ReadDir(filepath.Join(b.pool(poolName), "volumes"))
	if err != nil {
		return err
	}
	p, _, err := b.driver(ctx, poolName)
	if err != nil {
		return err
	}
	resp, err := p.Controller.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: 1})
	if err != nil {
		return err
	}
	id, err := (sockets{Process: p}).snapshot(ctx, resp.GetEntries()[0].GetVolume().GetVolumeId())
	if err := errors.Join(err, b.stop(p)); err != nil {
		return err
	}
	snapshots := filepath.Join(b.pool(poolName), "snapshots")
	template := id[len("0123456789ab-s-"):]
	text, err := os.ReadFile(filepath.Join(snapshots, template, "snapshot.json"))
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for writer := range writers {
		group.Go(func() error {
			for i := 1 + writer; i < n && ctx.Err() == nil; i += writers {
				name := "snapshot-" + volumeName()
				record := bytes.ReplaceAll(text, []byte(template), []byte(name))
				source := sources[i%len(sources)].Name()
				record = bytes.ReplaceAll(record, []byte(sources[0].Name()), []byte(source))
				if err := imitate(filepath.Join(snapshots, name), "snapshot.json", record); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return errors.Join(group.Wait(), b.disk.settle())
}

// checkSnapshots fails unless the driver has n snapshots.
func (b *bench) checkSnapshots(ctx context.Context, p *process.Process, n int) error {
	count, err := countPages(func(token string) (int, string, error) {
		resp, err := p.Controller.ListSnapshots(ctx, &csi.ListSnapshotsRequest{StartingToken: token})
		return len(resp.GetEntries()), resp.GetNextToken(), err
	})
	if err == nil && count != n {
		err = fmt.Errorf("the driver lists %d snapshots, want %d", count, n)
	}
	return err
}

// memoryGroup is a control group that bounds memory as the chart bounds the driver's.
type memoryGroup struct{ dir, peakFile string }

// newMemoryGroup makes a group below the root of cgroup v2, or of the memory hierarchy of v1.
func newMemoryGroup(name string) (memoryGroup, error) {
	const root = "/sys/fs/cgroup"
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return memoryGroup{}, &os.PathError{Op: "statfs", Path: root, Err: err}
	}
	g, limitFile := memoryGroup{filepath.Join(root, name), "memory.peak"}, "memory.max"
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		g = memoryGroup{filepath.Join(root, "memory", name), "memory.max_usage_in_bytes"}
		limitFile = "memory.limit_in_bytes"
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return g, err
	}
	limit := strconv.Itoa(chartLimit)
	return g, os.WriteFile(filepath.Join(g.dir, limitFile), []byte(limit), 0o644)
}

// peak is how much memory the group had at most, in MiB.
func (g memoryGroup) peak() (float64, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, g.peakFile))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseFloat(string(bytes.TrimSpace(text)), 64)
	return n / (1 << 20), err
}

// remove waits until the group's last process has gone.
func (g memoryGroup) remove() error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Rmdir(g.dir)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
