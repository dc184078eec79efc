package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// scanBatch is how many records one worker reads before it takes more.
const scanBatch = 512

// scan makes memory agree with the tree: every volume is indexed and counted, and what is deleted,
// or was never finished, is queued.
func (p *Pool) scan(ctx context.Context) error {
	start := time.Now()
	var buried graves
	// before the volumes: what is kept of a volume raises its limit
	if err := p.scanSnapshots(ctx, &buried); err != nil {
		return err
	}
	if err := p.scanVolumes(ctx, &buried); err != nil {
		return err
	}
	// after them: a quota that is another volume's by now is not held
	if err := p.scanDiscarded(ctx, buried.found); err != nil {
		return err
	}
	committed, trash := p.ledger.Counts()
	snapshots, _ := p.snapshotIndex.counts()
	klog.FromContext(
		ctx,
	).Info("Pool is open", "pool", p.opts.Name, "path", p.opts.Path, "poolID", p.id, "volumes",
		p.index.len(), "snapshots", snapshots, "committedBytes", committed, "trashBytes", trash, "took",
		time.Since(start))
	return nil
}

// scanDiscarded queues what is buried and what is in trash/ and tmp/.
func (p *Pool) scanDiscarded(ctx context.Context, left []discarded) error {
	for _, d := range left { // a crash may have come before that
		if err := p.syncTaken(d.at, d.name); err != nil {
			return err
		}
	}
	thrown, err := p.scanTrash()
	if err != nil {
		return err
	}
	unfinished, err := p.scanTmp()
	if err != nil {
		return err
	}
	for _, d := range slices.Concat(left, thrown, unfinished) {
		p.requeue(ctx, d)
	}
	return nil
}

// graves collects what is found buried.
type graves struct {
	mu    sync.Mutex
	found []discarded
}

func (g *graves) add(at openat.Dir, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := discarded{at: at, name: name}
	d.dueAt(time.Now().Add(purgeDelay))
	g.found = append(g.found, d)
}

// scanVolumes reads the records in parallel: with 100,000 of them it is the latency of the disk
// that counts.
func (p *Pool) scanVolumes(ctx context.Context, buried *graves) error {
	return scanDir(ctx, p.volumes,
		func(ctx context.Context, names []string) error { return p.scanBatch(ctx, names, buried) })
}

// scanDir reads a directory and has its names read in batches.
func scanDir(ctx context.Context, d openat.Dir, batch func(context.Context, []string) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4 * runtime.GOMAXPROCS(0))
	for ctx.Err() == nil {
		names, err := d.Readdirnames(scanBatch)
		if len(names) > 0 {
			group.Go(func() error { return batch(ctx, names) })
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(fmt.Errorf("read %s/: %w", d.Name(), err), group.Wait())
		}
	}
	return group.Wait()
}

func (p *Pool) scanBatch(ctx context.Context, names []string, buried *graves) error {
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, err := volume.IDFromDir(p.id, name)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Left alone", "pool", p.opts.Name, "directory", name)
			continue
		}
		dead, err := isBuried(p.volumes, name)
		if dead {
			buried.add(p.volumes, name)
			continue
		}
		var v volume.Volume
		if err == nil {
			v, err = p.readRecord(p.volumes, name, name)
		}
		if err != nil {
			err = fmt.Errorf("volume %s in pool %s: %w", id, p.opts.Name, err)
			klog.FromContext(
				ctx,
			).Error(err, "Damaged volume: it can be deleted, but not used", "volumeID", id)
			v.ID = id
		}
		e := &entry{volume: v, damaged: err}
		p.adopt(ctx, e)
		p.index.put(e)
		p.ledger.Add(v.PromisedBytes())
		if e.damaged == nil && !e.unenforced {
			p.foreign.addUnwritten(p.unwrittenOf(p.volumes, name, v))
		}
	}
	return nil
}

// adopt makes the filesystem agree with the record. A volume for which it cannot is used all the
// same: its data is whole, and its size is what is not sure. Of a damaged one it keeps the quota,
// whatever that is.
func (p *Pool) adopt(ctx context.Context, e *entry) {
	d, err := p.volumes.OpenDir(e.volume.ID.Dir())
	repaired := false
	if err == nil {
		defer d.Close()
		if e.damaged != nil {
			e.volume.QuotaID = p.backend.Hold(d.File, 0)
			return
		}
		repaired, err = p.backendOf(
			e.volume.Spec,
		).Adopt(d.File, e.volume.QuotaID, e.volume.Spec, p.limitOf(e.volume))
	}
	if errors.Is(err, volume.ErrCorrupt) {
		e.volume.QuotaID = 0 // or its limit, and its end, would be the other one's
	}
	e.unenforced = err != nil || !p.backendOf(e.volume.Spec).Enforces()
	switch {
	case err != nil:
		klog.FromContext(
			ctx,
		).Error(err, "The size of a volume is not enforced", "pool", p.opts.Name, "volumeID", e.volume.ID)
	case repaired:
		klog.FromContext(ctx).Info("The size of a volume was not as its record says, and is again",
			"pool", p.opts.Name, "volumeID", e.volume.ID, "quotaID", e.volume.QuotaID, "bytes",
			e.volume.CapacityBytes)
	}
}
