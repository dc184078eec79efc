package pool

import (
	"context"
	"fmt"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// scanSnapshots indexes and counts every snapshot.
func (p *Pool) scanSnapshots(ctx context.Context, buried *graves) error {
	return scanDir(
		ctx,
		p.snapshots,
		func(ctx context.Context, names []string) error { return p.scanSnapshotBatch(ctx, names, buried) },
	)
}

func (p *Pool) scanSnapshotBatch(ctx context.Context, names []string, buried *graves) error {
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, err := volume.SnapshotIDFromDir(p.id, name)
		if err != nil {
			klog.FromContext(
				ctx,
			).Error(err, "Left alone", "pool", p.opts.Name, "directory", snapshotsDir+"/"+name)
			continue
		}
		dead, err := isBuried(p.snapshots, name)
		if dead {
			buried.add(p.snapshots, name)
			continue
		}
		var s volume.Snapshot
		if err == nil {
			s, err = p.readSnapshot(p.snapshots, name, name)
		}
		if err != nil {
			err = fmt.Errorf("snapshot %s in pool %s: %w", id, p.opts.Name, err)
			klog.FromContext(
				ctx,
			).Error(err, "Damaged snapshot: it can be deleted, but not used", "snapshotID", id)
			s = volume.Snapshot{ID: id}
		}
		p.adoptSnapshot(ctx, &s)
		p.snapshotIndex.put(SnapshotEntry{Snapshot: s, Damaged: err})
		p.snapshotIndex.keep(keptBy(s), s.HeldBytes)
		p.ledger.Add(s.HeldBytes)
	}
	return nil
}

// adoptSnapshot keeps the snapshot's quota ID from being given out. There is no limit to put right.
func (p *Pool) adoptSnapshot(ctx context.Context, s *volume.Snapshot) {
	d, err := p.snapshots.OpenDir(s.ID.Dir())
	if err != nil {
		klog.FromContext(
			ctx,
		).Error(err, "A snapshot cannot be opened", "pool", p.opts.Name, "snapshotID", s.ID)
		return
	}
	defer d.Close()
	s.QuotaID = p.backend.Hold(d.File, s.QuotaID)
}
