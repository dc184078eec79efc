// Package btrfs holds volumes to their sizes on btrfs. A volume is a subvolume; it belongs to a
// quota group of its own, which has the limit, and so do the subvolumes that a pod makes in it
// where the filesystem has simple quotas. Deleting a volume costs no time for its files, and a
// snapshot of it will cost none either.
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
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// The numbers of volumes' quota groups, far from those that people choose.
const (
	firstTag backend.Tag = 1 << 40
	tagCount             = 1 << 40
)

// leastLimit is what an empty volume needs for itself, rounded up: with less, not even its owner
// can be set. A smaller volume may hold as much.
const leastLimit = 1 << 20

// Mode says whether volumes are held to their sizes.
type Mode int

const (
	// Enforce holds every volume to its size, and turns on the filesystem's quotas for that.
	Enforce Mode = iota
	// Lift makes volumes without limits, and takes the limits off those that have one. The
	// filesystem's quotas stay as they are.
	Lift
)

// Btrfs is the backend of one pool.
type Btrfs struct {
	fs       filesystem
	enforces bool
	quotas   accounting
	tags     *backend.Tags
	hurried  atomic.Int64 // when, in Unix nanoseconds
}

var (
	_ backend.Backend = (*Btrfs)(nil)
	_ backend.Counter = (*Btrfs)(nil)
)

// Open is the backend for the filesystem of a directory, which stays the caller's and open; false
// if it is not btrfs. A filesystem whose quotas cannot be turned on is one that does not enforce.
// The seed says where the search for free groups begins.
func Open(log klog.Logger, root *os.File, mode Mode, seed uint64) (*Btrfs, bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &st); err != nil {
		return nil, false, err
	}
	if st.Type != unix.BTRFS_SUPER_MAGIC {
		return nil, false, nil
	}
	b := &Btrfs{fs: filesystem{root: root}, tags: backend.NewTags(firstTag, tagCount, seed<<8)}
	if mode == Lift {
		return b, true, nil
	}
	var err error
	b.quotas, err = b.turnOn(log)
	b.enforces = b.quotas != none
	return b, true, err
}

// turnOn makes sure that the filesystem has quotas. It says what it changes, and what is weak.
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

// limit is what the filesystem is told of a volume's size.
func (b *Btrfs) limit(bytes int64) uint64 {
	if !b.enforces {
		return noLimit
	}
	return uint64(max(bytes, leastLimit))
}

// Make implements backend.Backend.
func (b *Btrfs) Make(dir *os.File, spec volume.Spec, bytes int64) (*os.File, backend.Tag, error) {
	tag, err := b.claim(bytes)
	if err != nil {
		return nil, 0, err
	}
	f, err := b.makeData(dir, spec, tag)
	if err != nil {
		return nil, 0, errors.Join(err, b.Release(tag))
	}
	return f, tag, nil
}

// claim makes a group with that limit; 0 where none is to be.
func (b *Btrfs) claim(bytes int64) (backend.Tag, error) {
	if !b.enforces {
		return 0, nil
	}
	tag, err := b.tags.Claim(b.fs.createGroup)
	if err != nil {
		return 0, err
	}
	if err := b.fs.setLimit(tag, b.limit(bytes)); err != nil {
		return 0, errors.Join(err, b.Release(tag))
	}
	return tag, nil
}

func (b *Btrfs) makeData(dir *os.File, spec volume.Spec, tag backend.Tag) (*os.File, error) {
	name, fill := backend.Data, fillDirectory
	if spec.Type == volume.FileOrCreate {
		name, fill = backend.Holder, backend.MakeEmpty
	}
	if err := createSubvolume(dir, name, group(tag)); err != nil {
		return nil, err
	}
	f, err := fillNew(dir, name, spec, fill)
	if err != nil {
		return nil, errors.Join(err, b.fs.destroy(dir, name))
	}
	return f, nil
}

func group(tag backend.Tag) uint64 {
	if tag == 0 {
		return 0
	}
	return groupOf(tag)
}

// fillNew makes of a new subvolume what pods will see.
func fillNew(
	dir *os.File, name string, spec volume.Spec, fill func(*os.File, volume.Spec) (*os.File, error),
) (*os.File, error) {
	f, err := openNoMount(dir, name)
	if err != nil {
		return nil, err
	}
	data, err := fill(f, spec)
	if data != f {
		f.Close()
	}
	return data, err
}

// fillDirectory shows the subvolume itself.
func fillDirectory(f *os.File, spec volume.Spec) (*os.File, error) {
	if err := backend.SetOwner(f, spec); err != nil {
		return nil, err
	}
	return f, nil
}

// Adopt implements backend.Backend. A group that is gone (somebody turned the filesystem's quotas
// off and on again) is made again; what the volume held before is then not counted by simple
// quotas.
func (b *Btrfs) Adopt(
	dir *os.File, tag backend.Tag, _ volume.Spec, bytes int64,
) (repaired bool, err error) {
	if !b.enforces {
		return false, b.lift(tag)
	}
	if !b.tags.Contains(tag) {
		return false, fmt.Errorf(
			"%w: its record has no quota group, but %d: it was made while the filesystem had no quotas, or on another one",
			volume.ErrUnavailable,
			tag,
		)
	}
	if !b.tags.Hold(tag) {
		return false, fmt.Errorf("%w: quota group %d belongs to another volume as well",
			volume.ErrCorrupt, tag)
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
	return b.ensure(tag, id, b.limit(bytes))
}

func (b *Btrfs) ensure(tag backend.Tag, subvolume, limit uint64) (repaired bool, err error) {
	created, err := b.fs.ensureGroup(tag)
	if err != nil {
		return false, err
	}
	limited, err := b.fs.ensureLimit(tag, limit)
	if err != nil {
		return false, err
	}
	joined, err := b.fs.ensureMember(tag, subvolume)
	return created || limited || joined, err
}

// lift takes the limit off a volume that was made while sizes were enforced.
func (b *Btrfs) lift(tag backend.Tag) error {
	if !b.tags.Hold(tag) {
		return nil
	}
	_, err := b.fs.ensureLimit(tag, noLimit)
	return err
}

// Hold implements backend.Backend.
func (b *Btrfs) Hold(dir *os.File, tag backend.Tag) backend.Tag {
	if tag == 0 {
		tag = b.tagOf(dir)
	}
	if !b.tags.Hold(tag) {
		return 0
	}
	return tag
}

// tagOf finds the group of data whose record is gone.
func (b *Btrfs) tagOf(dir *os.File) backend.Tag {
	f, err := openSubvolume(dir)
	if err != nil {
		return 0
	}
	defer f.Close()
	id, err := subvolumeOf(f)
	if err != nil {
		return 0
	}
	tag, err := b.fs.tagOf(id)
	if err != nil {
		return 0
	}
	return tag
}

// Resize implements backend.Backend.
func (b *Btrfs) Resize(_ *os.File, tag backend.Tag, _ volume.Spec, bytes int64) error {
	if !b.enforces || !b.tags.Contains(tag) {
		return nil
	}
	return b.fs.setLimit(tag, b.limit(bytes))
}

// Usage implements backend.Backend. The filesystem can be full before the volume is; then that is
// what is available. It has no number of inodes to give out.
func (b *Btrfs) Usage(data *os.File, tag backend.Tag) (volume.Usage, error) {
	u, err := mount.UsageOf(data)
	if err != nil || !b.tags.Contains(tag) {
		return u, err
	}
	used, err := b.fs.used(tag)
	if err != nil {
		return volume.Usage{}, err
	}
	limit, err := b.fs.limit(tag)
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

// Allocated implements backend.Counter. It is what the last transaction has written.
func (b *Btrfs) Allocated(_ *os.File, tag backend.Tag) (int64, error) {
	if !b.enforces || !b.tags.Contains(tag) {
		return 0, errors.ErrUnsupported
	}
	used, err := b.fs.used(tag)
	return clamp(used), err
}

func clamp(bytes uint64) int64 { return int64(min(bytes, math.MaxInt64)) }

// Discard implements backend.Backend.
func (b *Btrfs) Discard(dir *os.File) error {
	for _, name := range []string{backend.Data, backend.Holder} {
		if err := b.fs.destroy(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// Release implements backend.Backend.
func (b *Btrfs) Release(tag backend.Tag) error {
	if !b.tags.Contains(tag) {
		return nil
	}
	err := b.fs.removeGroup(tag)
	// a full filesystem has what was removed with its next transaction
	if errors.Is(err, unix.ENOSPC) {
		err = errors.Join(backend.ErrPending, err)
	}
	if errors.Is(err, backend.ErrPending) {
		return errors.Join(err, b.hurry(tag))
	}
	if err != nil {
		return err
	}
	b.tags.Free(tag)
	return nil
}

// hurryInterval bounds how often the filesystem commits for the sake of a purge.
const hurryInterval = time.Second

// hurry lets the kernel's cleaner begin at once, not when the next transaction is due, by default
// after 30 seconds: it is woken when the filesystem's own thread has committed one. There is one to
// commit only if something has changed, so something is written.
func (b *Btrfs) hurry(tag backend.Tag) error {
	now, last := time.Now().UnixNano(), b.hurried.Load()
	if now-last < int64(hurryInterval) || !b.hurried.CompareAndSwap(last, now) {
		return nil
	}
	bytes, err := b.fs.limit(tag)
	if err != nil {
		return err
	}
	if err := b.fs.setLimit(tag, bytes); err != nil && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	var transaction uint64
	return ioctl(b.fs.root, iocStartSync, "start a commit", &transaction)
}
