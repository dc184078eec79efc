package pool

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/image"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// newTrash returns the pool's trash.
func (p *Pool) newTrash() *trash.Trash {
	return trash.New(trash.Options{
		Pool:          p.opts.Name,
		Dir:           p.layout.Trash,
		Tmp:           p.layout.Tmp,
		Location:      p.layout.Location,
		Retention:     p.opts.TrashRetention,
		Backend:       p.backend,
		IsOrdered:     p.ordered,
		Records:       []string{record.VolumeFile, record.SnapshotFile},
		Sync:          func(files ...*os.File) error { return p.commits.Sync(files...) },
		CheckDetached: checkDetached,
		Yield: func(ctx context.Context) error {
			_, err := p.calls.Yield(ctx)
			return err
		},
		Purged: p.purged,
	})
}

// checkDetached refuses an entry whose image is on a loop device. Errors: ErrInUse.
func checkDetached(in openat.Dir, name string) error {
	data, err := backend.OpenDataIn(in, name, unix.O_PATH)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer data.Close()
	return image.CheckDetached(data)
}

// purged gives the bytes of a purged entry back to the ledger.
func (p *Pool) purged(ctx context.Context, e trash.Entry) {
	p.ledger.Purged(e.Bytes)
	if e.Unrecorded {
		p.measureOthersAgain(ctx)
	}
}

// scanTrash counts and queues the entries that earlier processes have deleted or not finished. The
// promised bytes of such an entry still count, because its data still fills the disk. Its quota ID
// stays reserved. snapshots has the directories that those of snapshots had or would have.
func (p *Pool) scanTrash(ctx context.Context) (snapshots map[string]bool, err error) {
	left, err := p.trash.Leftovers()
	if err != nil {
		return nil, err
	}
	snapshots = map[string]bool{}
	for _, e := range left {
		if dir, ok := p.snapshotDirOf(e); ok {
			snapshots[dir] = true
		}
		v, account := p.recognize(&e)
		p.chargeLeftover(ctx, &e, account)
		e.QuotaID = p.reserveQuotaID(e)
		if v != nil && (e.QuotaID != 0 || v.Spec.IsImage()) { // else: another volume's ID
			p.ledger.AddUnwritten(p.unwrittenOf(e.In, e.Name, *v))
		}
		p.ledger.AddTrash(e.Bytes)
		p.trash.Queue(e)
	}
	return snapshots, nil
}

// snapshotDirOf is the directory in snapshots/ that an entry had or would have; ok is false for a
// volume's entry.
func (p *Pool) snapshotDirOf(e trash.Entry) (dir string, ok bool) {
	if e.In == p.snapshots.dir {
		return e.Name, true // deleted in place
	}
	return strings.CutPrefix(p.trash.OriginalName(e), snapshotPrefix)
}

// recognize fills in the bytes and the quota ID of an entry from its record. An entry without a
// readable record is marked as Unrecorded. The volume is nil if the entry is none; account is where
// a snapshot's bytes are charged, and zero for everything else.
func (p *Pool) recognize(e *trash.Entry) (v *volume.Volume, account ledger.Account) {
	dirName := p.trash.OriginalName(*e)
	if v, err := p.volumes.read(e.In, e.Name, dirName); err == nil {
		e.Bytes, e.QuotaID = v.PromisedBytes(), v.QuotaID
		e.Retention = v.Mutable.TrashRetention
		return &v, ledger.Account{}
	}
	s, err := p.snapshots.read(e.In, e.Name, strings.TrimPrefix(dirName, snapshotPrefix))
	if err != nil { // an unfinished volume or snapshot
		e.Unrecorded = true
		return nil, ledger.Account{}
	}
	snapshot := catalog.NewSnapshot(s)
	e.Bytes, e.QuotaID = snapshot.PromisedBytes, s.QuotaID
	return nil, snapshot.SourceAccount()
}

// chargeLeftover charges the bytes of a deleted or unfinished snapshot to the account of its
// source, and sets the source's limit. The purge takes the charge back. chargeLeftover does nothing
// for the zero account.
func (p *Pool) chargeLeftover(ctx context.Context, e *trash.Entry, account ledger.Account) {
	if account == (ledger.Account{}) {
		return
	}
	e.Uncharge = p.uncharger(account, e.Bytes)
	p.accounts.Charge(account, e.Bytes)
	if err := p.applyCharges(account.Volume); err != nil { // its volume was adopted earlier
		klog.FromContext(ctx).Error(err, "The size of a volume is not what its snapshots need",
			"pool", p.opts.Name, "volumeID", account.Volume)
	}
}

// reserveQuotaID reserves the quota ID of an entry and returns the ID. It returns 0 if another
// volume has the ID by now: a crash came after the release of the ID and before the end of the
// purge.
func (p *Pool) reserveQuotaID(e trash.Entry) volume.QuotaID {
	d, err := e.In.OpenUnmounted(e.Name)
	if err != nil {
		return 0
	}
	defer d.Close()
	return p.backend.ReserveQuotaID(d, e.QuotaID)
}
