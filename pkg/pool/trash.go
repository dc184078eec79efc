package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// newTrash returns the pool's trash, without what is known only when the pool's directory is open.
func (p *Pool) newTrash() *trash.Trash {
	t := trash.New()
	t.Pool, t.Retention = p.opts.Name, p.opts.TrashRetention
	t.Records = []string{record.VolumeFile, record.SnapshotFile}
	t.Sync = func(files ...*os.File) error { return p.commits.Sync(files...) }
	t.CheckDetached = checkDetached
	t.Yield = func(ctx context.Context) error {
		_, err := p.calls.Yield(ctx)
		return err
	}
	t.Purged = p.purged
	return t
}

// purged gives back what is gone.
func (p *Pool) purged(ctx context.Context, e trash.Entry) {
	p.ledger.Purged(e.Bytes)
	if e.Unrecorded {
		p.measureForeignAgain(ctx)
	}
}

// uncharger takes the bytes of a purged snapshot from its volume's account; nil for nobody's.
// Errors: backend.ErrPending while the volume is being changed.
func (p *Pool) uncharger(from account, bytes int64) func() error {
	if from == (account{}) {
		return nil
	}
	uncharged := false
	return func() error {
		if uncharged {
			return nil
		}
		unshare, err := p.volumes.catalog.Share(from.volume)
		if err != nil {
			return errors.Join(backend.ErrPending, err)
		}
		defer unshare()
		p.charges.uncharge(from, bytes)
		uncharged = true
		return p.applyCharges(from.volume)
	}
}

// checkNotInPlace refuses a name whose last bearer was deleted in place and is still being purged.
// Errors: ErrBusy.
func checkNotInPlace(d openat.Dir, id catalog.Name) error {
	deleted, err := trash.IsMarked(d, id.Dir())
	if deleted {
		err = fmt.Errorf(
			"%w: %s was deleted while the disk was full, and is still being removed: ask again",
			volume.ErrBusy, id)
	}
	return err
}

// scanTrash counts and queues what earlier processes have deleted or never finished. What a record
// promised still counts, because the data still fills the disk, and its quota ID is nobody else's
// yet.
func (p *Pool) scanTrash(ctx context.Context) error {
	left, err := p.trash.Leftovers()
	if err != nil {
		return err
	}
	for _, e := range left {
		v, isVolume := p.recognize(ctx, &e)
		e.QuotaID = p.holdQuotaID(e)
		if isVolume && (e.QuotaID != 0 || v.Spec.IsImage()) { // else it is another volume's
			p.foreign.addUnwritten(p.unwrittenOf(e.In, e.Name, v))
		}
		p.ledger.AddTrash(e.Bytes)
		p.trash.Queue(e)
	}
	return nil
}

// recognize reads the record of an entry, a volume's or a snapshot's, for what it was promised and
// counted under. Without a record nobody knows. It returns a volume's.
func (p *Pool) recognize(ctx context.Context, e *trash.Entry) (_ volume.Volume, isVolume bool) {
	dirName := e.Name
	if e.In == p.trash.Dir || e.In == p.tmp {
		dirName = withoutSuffix(e.Name)
	}
	if v, err := p.volumes.read(e.In, e.Name, dirName); err == nil {
		e.Bytes, e.QuotaID = v.PromisedBytes(), v.QuotaID
		return v, true
	}
	s, err := p.snapshots.read(e.In, e.Name, strings.TrimPrefix(dirName, snapshotPrefix))
	if err != nil { // half a volume or snapshot
		e.Unrecorded = true
		return volume.Volume{}, false
	}
	snapshot := entryOfSnapshot(s)
	charged := accountOf(snapshot)
	e.Bytes, e.QuotaID = snapshot.Value.promisedBytes, s.QuotaID
	e.Uncharge = p.uncharger(charged, e.Bytes)
	p.charges.charge(charged, e.Bytes)
	if err := p.applyCharges(s.Source); err != nil { // it was adopted before anybody knew
		klog.FromContext(ctx).Error(err, "The size of a volume is not what its snapshots need",
			"pool", p.opts.Name, "volumeID", s.Source)
	}
	return volume.Volume{}, false
}

// holdQuotaID is 0 for an entry whose quota ID is another volume's: a crash came after the release.
func (p *Pool) holdQuotaID(e trash.Entry) volume.QuotaID {
	d, err := e.In.OpenUnmounted(e.Name)
	if err != nil {
		return 0
	}
	defer d.Close()
	return p.backend.ReserveQuotaID(d.File, e.QuotaID)
}
