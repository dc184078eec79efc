package pool

import (
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/catalog"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/layout"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/record"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Locked is a volume under its exclusive lock, as the lock has found it. Until Unlock, no other
// call changes or deletes the volume, and no copy of it begins.
type Locked struct {
	Volume

	unlock func()
}

// Lock takes the volume's exclusive lock, and looks the volume up again. Copies that began earlier
// go on; see CheckUncopied. Errors: ErrBusy while another call has the lock; ErrNotFound,
// ErrCorrupt.
func (v Volume) Lock() (Locked, error) {
	return v.pool.lockVolume(v.ID, v.pool.volumes.catalog.Lock)
}

// LockUncopied is Lock for a volume that nobody copies. Errors: those of Lock; ErrBusy also while
// the volume is being copied.
func (v Volume) LockUncopied() (Locked, error) {
	return v.pool.lockVolume(v.ID, v.pool.volumes.catalog.LockUnshared)
}

// lockVolume takes an exclusive lock by lock, and looks the volume up.
func (p *Pool) lockVolume(
	id volume.ID, lock func(catalog.ID) (unlock func(), err error),
) (Locked, error) {
	unlock, err := lock(id)
	if err != nil {
		return Locked{}, err
	}
	v, err := p.Get(id)
	if err != nil {
		unlock()
		return Locked{}, err
	}
	return Locked{Volume: v, unlock: unlock}, nil
}

// Unlock gives the lock back. It is called once.
func (l Locked) Unlock() { l.unlock() }

// CheckUncopied refuses a volume that is being copied. Errors: ErrBusy.
func (l Locked) CheckUncopied() error { return l.pool.volumes.catalog.CheckUnshared(l.ID) }

// ReplaceRecord gives the volume another record, durably. changed is the volume with its changes;
// owner and time of creation stay as they are. If nothing has changed, ReplaceRecord only syncs a
// record whose fsync has failed earlier. It is called once for a lock: l stays as it was. After an
// error the volume has its old record, or the new one that is not durable yet, and then the next
// ReplaceRecord of the same record syncs it.
func (l Locked) ReplaceRecord(changed volume.Volume) error {
	l.pool.calls.Enter()
	defer l.pool.calls.Leave()
	if changed == l.Volume.Volume {
		return l.syncUnsynced()
	}
	if err := l.writeRecord(changed); err != nil {
		return err
	}
	return l.commitRecord(changed)
}

// writeRecord replaces the volume's record by one rename(2). The owner, which memory does not have,
// is copied from the old record. After an error the old record is there. commitRecord makes the new
// record durable.
func (l Locked) writeRecord(changed volume.Volume) error {
	old, err := l.pool.volumes.read(l.pool.volumes.dir, l.ID.Dir(), l.ID.Dir())
	if err != nil {
		return err
	}
	changed.Owner, changed.Created = old.Owner, old.Created
	d, err := l.openDir()
	if err != nil {
		return err
	}
	defer d.Close()
	content, err := record.EncodeVolume(changed)
	if err != nil {
		return err
	}
	return layout.ReplaceVolumeRecord(d, content)
}

// commitRecord enters the volume with its new record in the catalog, and makes the record durable.
// If the fsync fails, the catalog still agrees with the record on disk; see syncUnsynced.
func (l Locked) commitRecord(changed volume.Volume) error {
	err := l.syncRecord()
	e := l.pool.volumes.pack(changed)
	e.IsEnforced, e.IsUnsynced = l.entry.IsEnforced, err != nil
	l.pool.volumes.catalog.Put(e)
	return err
}

// syncUnsynced syncs the record again if an earlier fsync of it has failed: a power cut could
// restore the old record, so no call may rely on the new one before.
func (v Volume) syncUnsynced() error {
	if !v.entry.IsUnsynced {
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

func (v Volume) openDir() (openat.Dir, error) {
	return v.pool.volumes.dir.OpenUnmounted(v.ID.Dir())
}
