// Package btrfs enforces sizes on btrfs. A volume is a subvolume in a quota group of its own, which
// has the limit. With simple quotas, subvolumes that a pod makes in the volume belong to the group
// as well. To delete a volume, or to take a snapshot, costs no time for its files.
package btrfs

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The quota IDs of volumes, far from the numbers of quota groups that people choose.
const (
	firstQuotaID volume.QuotaID = 1 << 40
	quotaIDCount                = 1 << 40
)

// minLimit is what an empty volume needs for itself, rounded up: with less, not even its owner can
// be set. A smaller volume may hold as much.
const minLimit = 1 << 20

// Mode says whether sizes are enforced.
type Mode int

const (
	// Enforce limits every volume to its size, and turns on the filesystem's quotas for that.
	Enforce Mode = iota
	// Lift makes volumes without limits, and removes the limits of those that have one. The
	// filesystem's quotas stay as they are.
	Lift
)

// Btrfs is the backend of one pool.
type Btrfs struct {
	fs         filesystem
	enforces   bool
	quotas     accounting
	quotaIDs   *backend.QuotaIDs
	lastCommit atomic.Int64 // of startCommit, in Unix nanoseconds
}

var (
	_ backend.Backend = (*Btrfs)(nil)
	_ backend.Counter = (*Btrfs)(nil)
)

// Open returns the backend for the filesystem of a directory; false if that is not btrfs. If its
// quotas cannot be turned on, the backend does not enforce sizes. The directory stays open while
// the backend is used, and the caller closes it.
func Open(log klog.Logger, root *os.File, mode Mode) (*Btrfs, bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &st); err != nil {
		return nil, false, err
	}
	if st.Type != unix.BTRFS_SUPER_MAGIC {
		return nil, false, nil
	}
	b := &Btrfs{
		fs:       filesystem{root: root},
		quotaIDs: backend.NewQuotaIDs(firstQuotaID, quotaIDCount),
	}
	if mode == Lift {
		return b, true, nil
	}
	var err error
	b.quotas, err = b.turnOn(log)
	b.enforces = b.quotas != none
	return b, true, err
}

// turnOn makes sure that the filesystem has quotas. It logs what it changes, and what is not
// enforced.
func (b *Btrfs) turnOn(log klog.Logger) (accounting, error) {
	kind, _, err := b.fs.status()
	if err != nil {
		return none, err
	}
	if kind == none {
		if err := b.fs.enable(); err != nil {
			log.Error(err, "The quotas of a btrfs filesystem are off and cannot be turned on", "path",
				b.fs.root.Name())
			return none, nil
		}
		log.Info(
			"The quotas of a btrfs filesystem were off and are turned on, simple ones where the kernel has them; "+
				"kernels before Linux 6.7 cannot mount a filesystem with simple quotas (`quota: off` leaves them as they are)",
			"path",
			b.fs.root.Name(),
		)
	}
	kind, inconsistent, err := b.fs.status()
	if err != nil {
		return none, err
	}
	if kind == full {
		log.Info(
			"The btrfs filesystem has full quotas, not simple ones: a pod that makes subvolumes in its volume exceeds its size",
			"path",
			b.fs.root.Name(),
			"inconsistent",
			inconsistent,
		)
	}
	return kind, nil
}

// Name implements backend.Backend.
func (*Btrfs) Name() string { return "btrfs" }

// Enforces implements backend.Backend.
func (b *Btrfs) Enforces() bool { return b.enforces }

// LimitsInodes implements backend.Backend: quota groups count bytes only.
func (*Btrfs) LimitsInodes() bool { return false }

// limit returns the limit of a volume's quota group.
func (b *Btrfs) limit(bytes int64) uint64 {
	if !b.enforces {
		return noLimit
	}
	return uint64(max(bytes, minLimit))
}

// Make implements backend.Backend.
func (b *Btrfs) Make(
	dir openat.Dir, spec volume.Spec, bytes int64,
) (*os.File, volume.QuotaID, error) {
	quotaID, err := b.newGroup(bytes)
	if err != nil {
		return nil, 0, err
	}
	f, err := b.makeData(dir, spec, quotaID)
	if err != nil {
		return nil, 0, errors.Join(err, b.Release(quotaID))
	}
	return f, quotaID, nil
}

// newGroup makes a quota group with that limit; 0 if sizes are not enforced.
func (b *Btrfs) newGroup(bytes int64) (volume.QuotaID, error) {
	if !b.enforces {
		return 0, nil
	}
	quotaID, err := b.quotaIDs.Allocate(b.fs.createGroup)
	if err != nil {
		return 0, err
	}
	if err := b.fs.setLimit(quotaID, b.limit(bytes)); err != nil {
		return 0, errors.Join(err, b.Release(quotaID))
	}
	return quotaID, nil
}

func (b *Btrfs) makeData(
	dir openat.Dir, spec volume.Spec, quotaID volume.QuotaID,
) (*os.File, error) {
	name, fill := backend.Data, fillDirectory
	if spec.Type == volume.FileOrCreate {
		name, fill = backend.Holder, backend.MakeEmpty
	}
	if err := createSubvolume(dir.File, name, group(quotaID)); err != nil {
		return nil, err
	}
	f, err := fillNew(dir, name, spec, fill)
	if err != nil {
		return nil, errors.Join(err, b.fs.destroy(dir, name))
	}
	return f, nil
}

func group(quotaID volume.QuotaID) uint64 {
	if quotaID == 0 {
		return 0
	}
	return groupOf(quotaID)
}

// fillNew makes, in a new subvolume, what pods will see.
func fillNew(
	dir openat.Dir, name string, spec volume.Spec,
	fill func(openat.Dir, volume.Spec) (*os.File, error),
) (*os.File, error) {
	f, err := dir.OpenUnmounted(name)
	if err != nil {
		return nil, err
	}
	data, err := fill(f, spec)
	if data != f.File {
		f.Close()
	}
	return data, err
}

// fillDirectory makes the subvolume itself what pods will see.
func fillDirectory(f openat.Dir, spec volume.Spec) (*os.File, error) {
	if err := backend.SetOwner(f.File, spec); err != nil {
		return nil, err
	}
	return f.File, nil
}

// Adopt implements backend.Backend. If the group is gone, because somebody has turned the
// filesystem's quotas off and on again, it is made again. Simple quotas do not count what the
// volume had before.
func (b *Btrfs) Adopt(
	dir openat.Dir, quotaID volume.QuotaID, _ volume.Spec, bytes int64,
) (repaired bool, err error) {
	if !b.enforces {
		return false, b.lift(quotaID)
	}
	if !b.quotaIDs.Contains(quotaID) {
		return false, fmt.Errorf(
			"%w: its record has no quota group, but %d: it was made while the filesystem had no quotas, or on another one",
			volume.ErrUnavailable, quotaID)
	}
	if !b.quotaIDs.Reserve(quotaID) {
		return false, fmt.Errorf("%w: quota group %d belongs to another volume as well",
			volume.ErrCorrupt, quotaID)
	}
	f, err := openSubvolume(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	id, err := subvolumeOf(f)
	if err != nil {
		return false, err
	}
	return b.ensure(quotaID, id, b.limit(bytes))
}

func (b *Btrfs) ensure(quotaID volume.QuotaID, subvolume, limit uint64) (repaired bool, err error) {
	created, err := b.fs.ensureGroup(quotaID)
	if err != nil {
		return false, err
	}
	limited, err := b.fs.ensureLimit(quotaID, limit)
	if err != nil {
		return false, err
	}
	joined, err := b.fs.ensureMember(quotaID, subvolume)
	return created || limited || joined, err
}

// lift removes the limit of a volume that was made while sizes were enforced.
func (b *Btrfs) lift(quotaID volume.QuotaID) error {
	if !b.quotaIDs.Reserve(quotaID) {
		return nil
	}
	_, err := b.fs.ensureLimit(quotaID, noLimit)
	return err
}

// ReserveQuotaID implements backend.Backend.
func (b *Btrfs) ReserveQuotaID(dir openat.Dir, quotaID volume.QuotaID) volume.QuotaID {
	if quotaID == 0 {
		quotaID = b.quotaIDOf(dir)
	}
	if !b.quotaIDs.Reserve(quotaID) {
		return 0
	}
	return quotaID
}

// quotaIDOf finds the group of data that has no record.
func (b *Btrfs) quotaIDOf(dir openat.Dir) volume.QuotaID {
	f, err := openSubvolume(dir)
	if err != nil {
		return 0
	}
	defer f.Close()
	id, err := subvolumeOf(f)
	if err != nil {
		return 0
	}
	quotaID, err := b.fs.quotaIDOf(id)
	if err != nil {
		return 0
	}
	return quotaID
}

// Resize implements backend.Backend.
func (b *Btrfs) Resize(_ openat.Dir, quotaID volume.QuotaID, _ volume.Spec, bytes int64) error {
	if !b.enforces || !b.quotaIDs.Contains(quotaID) {
		return nil
	}
	return b.fs.setLimit(quotaID, b.limit(bytes))
}

// Usage implements backend.Backend. If the filesystem has less space than the volume, that is what
// is available. btrfs has no limited number of inodes.
func (b *Btrfs) Usage(data *os.File, quotaID volume.QuotaID) (volume.Usage, error) {
	u, err := mount.UsageOf(data)
	if err != nil || !b.quotaIDs.Contains(quotaID) {
		return u, err
	}
	used, err := b.fs.used(quotaID)
	if err != nil {
		return volume.Usage{}, err
	}
	limit, err := b.fs.limit(quotaID)
	if err != nil {
		return volume.Usage{}, err
	}
	u.UsedBytes = clamp(used)
	if limit != noLimit {
		u.TotalBytes = clamp(limit)
		u.AvailableBytes = max(0, min(u.TotalBytes-u.UsedBytes, u.AvailableBytes))
	}
	return u, nil
}

// Allocated implements backend.Counter. It returns the number of the last transaction.
func (b *Btrfs) Allocated(_ *os.File, quotaID volume.QuotaID) (int64, error) {
	if !b.enforces || !b.quotaIDs.Contains(quotaID) {
		return 0, errors.ErrUnsupported
	}
	used, err := b.fs.used(quotaID)
	return clamp(used), err
}

func clamp(bytes uint64) int64 { return int64(min(bytes, math.MaxInt64)) }

// Discard implements backend.Backend.
func (b *Btrfs) Discard(dir openat.Dir) error {
	for _, name := range []string{backend.Data, backend.Holder} {
		if err := b.fs.destroy(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// Release implements backend.Backend.
func (b *Btrfs) Release(quotaID volume.QuotaID) error {
	if !b.quotaIDs.Contains(quotaID) {
		return nil
	}
	err := b.fs.removeGroup(quotaID)
	// A full filesystem gets the removed blocks back with its next transaction.
	if errors.Is(err, unix.ENOSPC) {
		err = errors.Join(backend.ErrPending, err)
	}
	if errors.Is(err, backend.ErrPending) {
		return errors.Join(err, b.startCommit(quotaID))
	}
	if err != nil {
		return err
	}
	b.quotaIDs.Free(quotaID)
	return nil
}

// commitInterval bounds how often a purge starts a commit.
const commitInterval = time.Second

// startCommit wakes the kernel's cleaner, which removes what was deleted, when the filesystem's own
// thread has committed a transaction. By default that is due after 30 seconds. There is a
// transaction to commit only if something has changed, so the limit of the group is written again.
func (b *Btrfs) startCommit(quotaID volume.QuotaID) error {
	now, last := time.Now().UnixNano(), b.lastCommit.Load()
	if now-last < int64(commitInterval) || !b.lastCommit.CompareAndSwap(last, now) {
		return nil
	}
	bytes, err := b.fs.limit(quotaID)
	if err != nil {
		return err
	}
	if err := b.fs.setLimit(quotaID, bytes); err != nil && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return b.startSync()
}

// startSync starts the commit of the transaction, if there is one.
func (b *Btrfs) startSync() error {
	var transaction uint64
	return ioctl(b.fs.root, iocStartSync, "start a commit", &transaction)
}
