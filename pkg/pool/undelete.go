package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/trash"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Undelete takes a deleted volume back from the trash; entry is its name there. The volume is then
// as it was: ID, size, content. It is returned with its owner, as its record has it. When Undelete
// returns it, the volume survives a power cut. Nothing is overwritten, and only what is whole
// comes back. A volume that was taken back already is success. Errors: ErrNotFound when the trash
// has no such entry; ErrPrecondition when its purge has begun; ErrIncompatible when a volume of
// that name exists; ErrInvalid for what is no volume that can be taken back; ErrCorrupt when its
// record or its data cannot be used; ErrBusy.
func (p *Pool) Undelete(ctx context.Context, entry string) (volume.Volume, error) {
	v, err := p.undelete(ctx, entry)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("undelete %s in %s: %w", entry, p.nameAndPath(), err)
	}
	return v, nil
}

// HasInTrash says whether the trash has an entry of that name, whatever becomes of it.
func (p *Pool) HasInTrash(entry string) bool {
	if _, err := p.undeletedID(entry); err != nil {
		return false
	}
	p.calls.Enter()
	defer p.calls.Leave()
	f, err := p.layout.Trash.OpenUnmounted(entry)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func (p *Pool) undelete(ctx context.Context, entry string) (v volume.Volume, err error) {
	id, err := p.undeletedID(entry)
	if err != nil {
		return v, err
	}
	unlock, err := p.volumes.catalog.Lock(id)
	if err != nil {
		return v, err
	}
	defer unlock()
	p.calls.Enter()
	defer p.calls.Leave()
	if err := ctx.Err(); err != nil {
		return v, err
	}
	taken, err := p.trash.Take(entry)
	if errors.Is(err, volume.ErrNotFound) {
		return p.undeletedBefore(id, err)
	}
	if err != nil {
		return v, err
	}
	v, err = p.checkUndeletable(id, taken)
	if err == nil {
		err = p.moveFromTrash(taken, id)
	}
	if err != nil {
		p.trash.PutBack(taken)
		return v, err
	}
	p.adoptUndeleted(ctx, v, taken)
	if err := p.syncUndeleted(); err != nil {
		return v, fmt.Errorf("the volume is there again, but a power cut may undo that: %w: ask again",
			err)
	}
	return v, nil
}

// undeletedID is the volume that an entry of the trash was. Errors: ErrInvalid.
func (p *Pool) undeletedID(entry string) (volume.ID, error) {
	if strings.ContainsAny(entry, "/\x00") || strings.HasPrefix(entry, ".") {
		return volume.ID{}, fmt.Errorf("%w: %q is no name of an entry of the trash", volume.ErrInvalid,
			entry)
	}
	if strings.HasPrefix(entry, snapshotPrefix) {
		return volume.ID{}, fmt.Errorf("%w: %s was a snapshot: only volumes can be taken back",
			volume.ErrInvalid, entry)
	}
	dir := p.trash.OriginalName(trash.Entry{In: p.layout.Trash, Name: entry})
	if dir == entry {
		return volume.ID{}, fmt.Errorf("%w: %s is no name of an entry of the trash, which ends in a "+
			"point and 8 digits", volume.ErrInvalid, entry)
	}
	id, err := volume.IDFromDir(p.id, dir)
	if err != nil {
		return volume.ID{}, fmt.Errorf("%w: %w", volume.ErrInvalid, err)
	}
	return id, nil
}

// undeletedBefore answers for an entry that is not there: the volume may be back. An earlier call
// may have failed before its fsync, so undeletedBefore syncs again.
func (p *Pool) undeletedBefore(id volume.ID, notFound error) (v volume.Volume, err error) {
	if _, err := p.Get(id); err != nil {
		return v, notFound
	}
	if v, err = p.volumes.read(p.volumes.dir, id.Dir(), id.Dir()); err != nil {
		return v, err
	}
	return v, p.syncUndeleted()
}

// checkUndeletable refuses what is not whole, and what would take the place of something else.
func (p *Pool) checkUndeletable(id volume.ID, e trash.Entry) (v volume.Volume, err error) {
	if _, exists := p.volumes.catalog.Get(id.Dir()); exists {
		return v, fmt.Errorf("%w: a volume %s exists again: delete that one first, if nobody needs it",
			volume.ErrIncompatible, id)
	}
	if err := trash.CheckNotDeleted(p.volumes.dir, id.Dir()); err != nil {
		return v, err
	}
	if v, err = p.volumes.read(e.In, e.Name, id.Dir()); err != nil {
		return v, err
	}
	if v.IsInline() {
		return v, fmt.Errorf("%w: volume %s lived with its pod, and would be deleted again",
			volume.ErrInvalid, id)
	}
	if v.IsGitContent() {
		return v, fmt.Errorf("%w: volume %s had content of %s: a pod that asks for that gets it again",
			volume.ErrInvalid, id, v.Owner.Git)
	}
	if e.Unrecorded { // its bytes are counted as somebody else's
		return v, fmt.Errorf("%w: the record of %s was written after the driver's start: restart the "+
			"driver", volume.ErrPrecondition, e.Name)
	}
	data, err := backend.OpenDataIn(e.In, e.Name, unix.O_PATH)
	if err != nil {
		return v, fmt.Errorf("%w: data of %s: %w", volume.ErrCorrupt, e.Name, err)
	}
	defer data.Close()
	if err := checkFileType(data, v.Spec); err != nil {
		return v, fmt.Errorf("%w: data of %s: %w", volume.ErrCorrupt, e.Name, err)
	}
	return v, nil
}

// moveFromTrash renames an entry into volumes/. Errors: ErrIncompatible, ErrInUse.
func (p *Pool) moveFromTrash(e trash.Entry, id volume.ID) error {
	err := e.In.RenameNoReplace(e.Name, p.volumes.dir, id.Dir())
	switch {
	case errors.Is(err, os.ErrExist):
		return fmt.Errorf("%w: %s/%s is there: it was not made by this driver", volume.ErrIncompatible,
			p.volumes.dir.Name(), id.Dir())
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: something is mounted on %s in the trash: unmount it (%w)",
			volume.ErrInUse, e.Name, err)
	}
	return err
}

// adoptUndeleted enters a volume that is in volumes/ again. Its quota ID was kept while it was in
// the trash. Its limit may be another one by now: that of its snapshots is gone, or quotas were
// switched on or off. A backend without quotas reserves no ID; the volume keeps the one of its
// record, as at a start.
func (p *Pool) adoptUndeleted(ctx context.Context, v volume.Volume, e trash.Entry) {
	made := p.volumes.pack(v)
	var err error
	switch {
	case made.IsEnforced && e.QuotaID != v.QuotaID:
		made.QuotaID = 0
		err = fmt.Errorf("%w: its quota ID %d is another volume's by now", volume.ErrCorrupt, v.QuotaID)
	case made.IsEnforced && v.QuotaID != 0:
		err = p.limitUndeleted(v)
	case made.IsEnforced && !v.Spec.IsImage():
		err = fmt.Errorf("%w: it was made while the filesystem had no quotas", volume.ErrUnavailable)
	}
	if err != nil {
		made.IsEnforced = false
		p.found.add(v, volume.FaultSizeNotEnforced)
		klog.FromContext(ctx).Error(err, "The size of a volume is not enforced", "pool", p.opts.Name,
			"volumeID", v.ID)
	}
	p.volumes.catalog.Put(made)
	p.ledger.TakeFromTrash(e.Bytes, made.PromisedBytes)
	klog.FromContext(ctx).Info("A volume was taken back from the trash", "pool", p.opts.Name,
		"volumeID", v.ID, "entry", e.Name)
}

func (p *Pool) limitUndeleted(v volume.Volume) error {
	d, err := p.volumes.dir.OpenUnmounted(v.ID.Dir())
	if err != nil {
		return err
	}
	defer d.Close()
	return p.backendOf(v.Spec).Resize(d, v.QuotaID, v.LimitedSpec(), p.limitOf(v))
}

// syncUndeleted makes renames from trash/ into volumes/ durable.
func (p *Pool) syncUndeleted() error {
	files := []*os.File{p.volumes.dir.File}
	if !p.ordered {
		files = append(files, p.layout.Trash.File)
	}
	return p.commits.Sync(files...)
}
