package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// scan builds the catalogs, the ledger and the trash queue from the tree: every volume and snapshot
// is indexed and counted, and every deleted or unfinished entry is queued for the purge.
func (p *Pool) scan(ctx context.Context) error {
	start := time.Now()
	// Snapshots first: their bytes raise the limits of their volumes.
	if err := p.snapshots.scan(ctx); err != nil {
		return err
	}
	p.snapshots.catalog.ClaimDamaged()
	if err := p.volumes.scan(ctx); err != nil {
		return err
	}
	// Trash last: the quota IDs of live volumes must be known, so that none of them is released.
	interrupted, err := p.scanTrash(ctx)
	if err != nil {
		return err
	}
	p.deletePartialGroups(ctx, interrupted)
	committed, inTrash := p.ledger.Counts()
	klog.FromContext(ctx).Info("Pool is open", "pool", p.opts.Name, "path", p.opts.Path,
		"poolID", p.id, "volumes", p.volumes.catalog.Len(), "snapshots", p.snapshots.catalog.Len(),
		"committedBytes", committed, "trashBytes", inTrash, "took", time.Since(start))
	return nil
}

// scan reads the records of a kind and enters them in the catalog and the ledger.
func (k *kind[V]) scan(ctx context.Context) error { return layout.Walk(ctx, k.dir, k.scanName) }

// read reads the record of an entry of the kind's directory, of tmp/ or of trash/; dirName is the
// directory where the record belongs. Errors: ErrCorrupt.
func (k *kind[V]) read(parent openat.Dir, entryName, dirName string) (V, error) {
	return layout.ReadRecord(parent, entryName+"/"+k.recordFile, func(content []byte) (V, error) {
		return k.decode(k.pool.id, dirName, content)
	})
}

func (k *kind[V]) scanName(ctx context.Context, name string) {
	log := klog.FromContext(ctx)
	id, err := k.idOf(name)
	if err != nil {
		log.Error(err, "Left alone", "pool", k.pool.opts.Name, "directory", k.dir.Name()+"/"+name)
		return
	}
	deleted, err := trash.HasTombstone(k.dir, name)
	if deleted {
		k.pool.trash.FoundInPlace(k.dir, name)
		return
	}
	var v V
	if err == nil {
		v, err = k.read(k.dir, name, name)
	}
	var e *catalog.Entry
	if err == nil {
		e = k.pack(v)
	} else {
		err = fmt.Errorf("%s %s in pool %s: %w", k.noun, id, k.pool.opts.Name, err)
		log.Error(err, "Damaged "+k.noun+": it can be deleted, but not used", k.noun+"ID", id)
		e = catalog.NewDamaged(name, err)
	}
	k.adopt(ctx, e)
	k.catalog.Put(e)
	k.pool.ledger.Add(e.PromisedBytes)
}

// adoptVolume makes the filesystem agree with the record. If that fails, the volume can be used all
// the same: its data is whole, but its size may not be enforced. A damaged volume keeps its quota
// ID reserved.
func (p *Pool) adoptVolume(ctx context.Context, e *catalog.Entry) {
	if isUnquoted(e, p.backendOf(e.Spec())) {
		return
	}
	d, err := p.volumes.dir.OpenUnmounted(e.Dir)
	if err == nil {
		defer d.Close()
	}
	if e.Damaged() != nil {
		p.found.add(p.volumes.unpack(e), volume.FaultRecordDamaged)
		if err == nil {
			e.QuotaID = p.backend.ReserveQuotaID(d, 0)
		}
		return
	}
	repaired := false
	v := p.volumes.unpack(e)
	if err == nil {
		repaired, err = p.backendOf(v.Spec).Adopt(d, v.QuotaID, v.LimitedSpec(), p.limitOf(v))
	}
	if errors.Is(err, volume.ErrCorrupt) {
		e.QuotaID = 0 // the ID is another volume's: it must not be resized or released here
	}
	if e.IsEnforced && err != nil {
		e.IsEnforced = false
		p.found.add(v, faultOfSize(v, err))
	}
	switch log := klog.FromContext(ctx); {
	case err != nil:
		log.Error(err, "The size of a volume is not enforced", "pool", p.opts.Name, "volumeID", v.ID)
	case repaired:
		log.Info("The size of a volume was not as its record says, and is again", "pool", p.opts.Name,
			"volumeID", v.ID, "quotaID", v.QuotaID, "bytes", v.CapacityBytes)
	}
	if e.IsEnforced {
		p.ledger.AddUnwritten(p.unwrittenOf(p.volumes.dir, e.Dir, v))
	}
}

// faultOfSize is the fault of a volume whose size could not be set. The file of an image that is
// too short lacks what was in it.
func faultOfSize(v volume.Volume, err error) volume.Fault {
	if v.Spec.IsImage() && errors.Is(err, volume.ErrCorrupt) {
		return volume.FaultImageIncomplete
	}
	return volume.FaultSizeNotEnforced
}

// isUnquoted says that an entry has no quota and needs none. Most volumes of a filesystem without
// quotas are like that, and the start need not open their directories.
func isUnquoted(e *catalog.Entry, b backend.Backend) bool {
	return e.QuotaID == 0 && e.Damaged() == nil && !b.Enforces()
}

// adoptSnapshot reserves the snapshot's quota ID and charges the snapshot's bytes to the account of
// its source. A snapshot has no limit that could be wrong.
func (p *Pool) adoptSnapshot(ctx context.Context, e *catalog.Entry) {
	p.accounts.Charge(e.SourceAccount(), e.PromisedBytes)
	if isUnquoted(e, p.backend) {
		return
	}
	d, err := p.snapshots.dir.OpenUnmounted(e.Dir)
	if err != nil {
		klog.FromContext(ctx).Error(err, "A snapshot cannot be opened", "pool", p.opts.Name,
			"directory", e.Dir)
		return
	}
	defer d.Close()
	e.QuotaID = p.backend.ReserveQuotaID(d, e.QuotaID)
}
