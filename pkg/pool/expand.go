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
		return v, v.syncUnsynced()
	}
	bytes, err := v.sizeToExpandTo(size)
	if err != nil {
		return Volume{}, fmt.Errorf("volume %s: %w", id, err)
	}
	if err := v.grow(ctx, bytes); err != nil {
		return Volume{}, fmt.Errorf("expand volume %s from %d to %d bytes: %w",
			id, v.CapacityBytes, bytes, err)
	}
	return p.Volume(id)
}

// sizeToExpandTo is the size that the volume gets for a request. Errors: ErrOutOfRange; ErrBusy
// while an image is copied, because the copy is to be of one size.
func (v Volume) sizeToExpandTo(size volume.SizeRange) (int64, error) {
	if v.CapacityBytes > size.Required {
		return 0, fmt.Errorf("%w: it has %d bytes and never shrinks; asked for are at most %d",
			volume.ErrOutOfRange, v.CapacityBytes, size.Limit)
	}
	if v.Spec.IsImage() {
		if err := v.pool.volumes.catalog.CheckUnshared(v.ID); err != nil {
			return 0, err
		}
	}
	return v.Spec.Size(size)
}

// grow reserves the bytes, raises the limit, and then writes the record. The start applies the
// record, so after a crash in between the volume has the old size.
func (v Volume) grow(ctx context.Context, bytes int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, more := v.pool, bytes-v.CapacityBytes
	if err := p.reserve(more); err != nil {
		return err
	}
	failpoint.Here("expand.reserved")
	larger := v.Volume
	larger.CapacityBytes = bytes
	err := v.resize(p.limitOf(larger))
	if err == nil {
		failpoint.Here("expand.resized")
		err = v.exchangeRecord(larger)
	}
	if err != nil {
		p.ledger.Release(more)
		return errors.Join(err, v.resize(p.limitOf(v.Volume)))
	}
	// From here on nothing is undone, also when the fsync fails: an image that is shorter than its
	// record says is corrupt.
	return errors.Join(v.putExchanged(larger), p.applyCharges(v.ID))
}

// resize makes the filesystem hold the volume to so many bytes.
func (v Volume) resize(bytes int64) error {
	d, err := v.openDir()
	if err != nil {
		return err
	}
	defer d.Close()
	return v.pool.backendOf(v.Spec).Resize(d.File, v.QuotaID, v.Spec, bytes)
}

func (v Volume) openDir() (openat.Dir, error) { return v.pool.volumes.dir.OpenDir(v.ID.Dir()) }

// putRecord gives the volume another record, durably.
func (v Volume) putRecord(changed volume.Volume) error {
	if err := v.exchangeRecord(changed); err != nil {
		return err
	}
	return v.putExchanged(changed)
}

// exchangeRecord exchanges the volume's record by one rename(2). The owner, which memory does not
// have, is copied from the old record. After an error the old record is in place. putExchanged
// makes the new record durable.
func (v Volume) exchangeRecord(changed volume.Volume) error {
	old, err := v.pool.volumes.read(v.pool.volumes.dir, v.ID.Dir(), v.ID.Dir())
	if err != nil {
		return err
	}
	changed.Owner, changed.Created = old.Owner, old.Created
	d, err := v.openDir()
	if err != nil {
		return err
	}
	defer d.Close()
	content, err := record.EncodeVolume(changed)
	if err != nil {
		return err
	}
	return exchangeRecord(d, content)
}

// putExchanged puts the volume with its new record into the catalog, and makes the record durable.
// If the fsync fails, the catalog still agrees with the record on disk; see syncUnsynced.
func (v Volume) putExchanged(changed volume.Volume) error {
	err := v.syncRecord()
	e := v.pool.entryOf(changed)
	e.Value.isUnenforced, e.Value.isUnsynced = v.entry.Value.isUnenforced, err != nil
	v.pool.volumes.catalog.Put(e)
	return err
}

// syncUnsynced syncs the record again if an earlier fsync of it has failed: a power cut could
// restore the old record, so no call may rely on the new one before.
func (v Volume) syncUnsynced() error {
	if !v.entry.Value.isUnsynced {
		return nil
	}
	return v.syncRecord()
}

func (v Volume) syncRecord() error {
	d, err := v.openDir()
	if err != nil {
		return err
	}
	defer d.Close()
	return v.pool.commits.SyncFile(d.File)
}

// exchangeRecord writes a new record of a volume's directory by one rename(2). The record is
// durable after a sync of the directory. After an error the old record is in place.
func exchangeRecord(d openat.Dir, content []byte) error {
	// A crash may have left the file.
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
