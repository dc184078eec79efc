package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const recordTmpFile = record.VolumeFile + ".tmp"

// Expand gives a volume at least the size that is required, while pods use it, and returns the
// volume as it is then. A size it has already is success. When it returns the new size, that
// survives a power cut. Errors: ErrNotFound, ErrCorrupt, ErrBusy; ErrOutOfRange when the volume is
// larger than the limit, because it never shrinks; ErrNoSpace, with the volume as it was.
func (p *Pool) Expand(ctx context.Context, id volume.ID, size volume.SizeRange) (Volume, error) {
	unlock, err := p.volumes.catalog.Lock(id)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	v, err := p.Volume(id)
	if err != nil {
		return Volume{}, err
	}
	if size.Contains(v.CapacityBytes) {
		return v, p.syncUnsynced(v.entry)
	}
	if v.CapacityBytes > size.Required {
		return Volume{}, fmt.Errorf(
			"%w: volume %s has %d bytes and never shrinks; asked for are at most %d",
			volume.ErrOutOfRange,
			id,
			v.CapacityBytes,
			size.Limit,
		)
	}
	bytes, err := v.Spec.Size(size)
	if err != nil {
		return Volume{}, fmt.Errorf("volume %s: %w", id, err)
	}
	if v.Spec.IsImage() { // a copy of it is to be of one size
		if err := p.volumes.catalog.CheckUnshared(id); err != nil {
			return Volume{}, err
		}
	}
	if err := p.grow(ctx, v.entry, v.Volume, bytes); err != nil {
		return Volume{}, fmt.Errorf(
			"expand volume %s from %d to %d bytes: %w",
			id,
			v.CapacityBytes,
			bytes,
			err,
		)
	}
	return p.Volume(id)
}

// grow reserves, raises the limit, and then says so in the record: at a start the record wins, so a
// crash in between leaves the old size.
func (p *Pool) grow(ctx context.Context, e *entry, was volume.Volume, bytes int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	more := bytes - was.CapacityBytes
	if err := p.reserve(more); err != nil {
		return err
	}
	failpoint.Here("expand.reserved")
	v := was
	v.CapacityBytes = bytes
	err := p.resize(v, p.limitOf(v))
	if err == nil {
		failpoint.Here("expand.resized")
		err = p.replaceRecord(v)
	}
	if err != nil {
		p.ledger.Release(more)
		return errors.Join(err, p.resize(was, p.limitOf(was)))
	}
	// Nothing goes back from here on, also when the fsync fails: data that is shorter than its
	// record is corrupt.
	return errors.Join(p.putReplaced(e, v), p.applyCharges(v.ID))
}

func (p *Pool) resize(v volume.Volume, bytes int64) error {
	d, err := p.volumes.dir.OpenDir(v.ID.Dir())
	if err != nil {
		return err
	}
	defer d.Close()
	return p.backendOf(v.Spec).Resize(d.File, v.QuotaID, v.Spec, bytes)
}

// putReplaced puts a volume whose record was exchanged into the catalog, in the place of the entry
// that it had, and makes the record durable. If that fails, the catalog says all the same what the
// disk says; see syncUnsynced.
func (p *Pool) putReplaced(was *entry, v volume.Volume) error {
	err := p.syncRecord(was.Dir)
	e := p.entryOf(v)
	e.Value.isUnenforced, e.Value.isUnsynced = was.Value.isUnenforced, err != nil
	p.volumes.catalog.Put(e)
	return err
}

// syncUnsynced makes the record durable of an entry for which that has failed: nobody may build on
// what a power cut takes back.
func (p *Pool) syncUnsynced(e *entry) error {
	if !e.Value.isUnsynced {
		return nil
	}
	return p.syncRecord(e.Dir)
}

func (p *Pool) syncRecord(dirName string) error {
	d, err := p.volumes.dir.OpenDir(dirName)
	if err != nil {
		return err
	}
	defer d.Close()
	return p.commits.SyncFile(d.File)
}

// replaceRecord exchanges a volume's record by one rename(2). The owner, which memory does not
// have, is that of the old record. An error says that the old one is there; putReplaced makes the
// new one durable.
func (p *Pool) replaceRecord(v volume.Volume) error {
	old, err := p.volumes.read(p.volumes.dir, v.ID.Dir(), v.ID.Dir())
	if err != nil {
		return err
	}
	v.Owner, v.Created = old.Owner, old.Created
	d, err := p.volumes.dir.OpenDir(v.ID.Dir())
	if err != nil {
		return err
	}
	defer d.Close()
	content, err := record.EncodeVolume(v)
	if err != nil {
		return err
	}
	return exchangeRecord(d, content)
}

// exchangeRecord gives a volume's directory another record by one rename(2). It is durable after a
// sync of the directory. An error says that the old record is there.
func exchangeRecord(d openat.Dir, content []byte) error {
	// a crash has left it
	if err := unix.Unlinkat(d.FD(), recordTmpFile, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "unlink", Path: recordTmpFile, Err: err}
	}
	if err := d.WriteFile(recordTmpFile, content, (*os.File).Sync); err != nil {
		_ = unix.Unlinkat(d.FD(), recordTmpFile, 0) // else the next try does it
		return err
	}
	failpoint.Here("record.written")
	if err := unix.Renameat(d.FD(), recordTmpFile, d.FD(), record.VolumeFile); err != nil {
		return &os.LinkError{Op: "rename", Old: recordTmpFile, New: record.VolumeFile, Err: err}
	}
	failpoint.Here("record.renamed")
	return nil
}
