package btrfs

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// accounting is how a filesystem counts what its subvolumes hold.
type accounting int

const (
	// none: quotas are off.
	none accounting = iota
	// full quotas count every reference to every extent.
	full
	// simple quotas count an extent where it was first written.
	simple
)

// status is the filesystem's accounting. It is inconsistent when numbers are known to be wrong
// until a rescan.
func (f filesystem) status() (kind accounting, inconsistent bool, err error) {
	data, err := f.quotaItem(qgroupStatus, 0)
	if err != nil || data == nil {
		return none, false, err
	}
	flags := numbers(data, 3)[2] // version, generation, flags
	switch {
	case flags&statusSimple != 0:
		return simple, flags&statusInconsistent != 0, nil
	case flags&statusOn != 0:
		return full, flags&statusInconsistent != 0, nil
	default:
		return none, false, nil
	}
}

// enable turns quotas on: simple ones, or full ones where the kernel is older than Linux 6.7.
func (f filesystem) enable() error {
	err := ioctl(f.root, iocQuotaCtl, "enable simple quotas", &quotaArgs{cmd: quotaEnableSimple})
	if errors.Is(err, unix.EINVAL) {
		return ioctl(f.root, iocQuotaCtl, "enable quotas", &quotaArgs{cmd: quotaEnable})
	}
	return err
}

// groupOf is the quota group of a quota ID. It is of level 1: the groups of level 0 are the
// subvolumes themselves.
func groupOf(quotaID volume.QuotaID) uint64 { return 1<<48 | uint64(quotaID) }

// quotaIDOfGroup is the quota ID of a quota group, 0 for one of another level.
func quotaIDOfGroup(group uint64) volume.QuotaID {
	if group>>48 != 1 {
		return 0
	}
	return volume.QuotaID(group & (1<<48 - 1))
}

// createGroup says whether a group is new, or was left without a subvolume by a crash: either is
// free.
func (f filesystem) createGroup(quotaID volume.QuotaID) (free bool, err error) {
	err = ioctl(f.root, iocQgroupCreate, "create quota group",
		&createArgs{create: 1, group: groupOf(quotaID)})
	if errors.Is(err, unix.EEXIST) {
		members, err := f.items(quotaTree, groupOf(quotaID), qgroupRelation, 0, math.MaxUint64)
		return len(members) == 0, err
	}
	return err == nil, err
}

// ensureGroup makes a group again that went with the filesystem's quotas, and says whether it did.
func (f filesystem) ensureGroup(quotaID volume.QuotaID) (changed bool, err error) {
	data, err := f.quotaItem(qgroupInfo, groupOf(quotaID))
	if err != nil || data != nil {
		return false, err
	}
	err = ioctl(f.root, iocQgroupCreate, "create quota group",
		&createArgs{create: 1, group: groupOf(quotaID)})
	return true, err
}

// ensureMember puts a subvolume into a group if it is not there, and says whether it did.
func (f filesystem) ensureMember(
	quotaID volume.QuotaID, subvolume uint64,
) (changed bool, err error) {
	found, err := f.items(quotaTree, subvolume, qgroupRelation, groupOf(quotaID), groupOf(quotaID))
	if err != nil || len(found) > 0 {
		return false, err
	}
	err = ioctl(f.root, iocQgroupAssign, "put subvolume into quota group",
		&assignArgs{assign: 1, member: subvolume, group: groupOf(quotaID)})
	return true, err
}

// noLimit is also what an absent limit reads as.
const noLimit = math.MaxUint64

func (f filesystem) setLimit(quotaID volume.QuotaID, bytes uint64) error {
	return ioctl(f.root, iocQgroupLimit, "limit quota group", &limitArgs{
		group:  groupOf(quotaID),
		limits: limits{flags: limitMaxRfer, maxRfer: bytes},
	})
}

func (f filesystem) limit(quotaID volume.QuotaID) (uint64, error) {
	data, err := f.quotaItem(qgroupLimit, groupOf(quotaID))
	if err != nil {
		return 0, err
	}
	if n := numbers(data, 2); n[0]&limitMaxRfer != 0 { // flags, max_rfer
		return n[1], nil
	}
	return noLimit, nil
}

// ensureLimit writes only what is not so yet, and says whether it did: at a start it is so for
// every volume.
func (f filesystem) ensureLimit(quotaID volume.QuotaID, bytes uint64) (changed bool, err error) {
	have, err := f.limit(quotaID)
	if err != nil || have == bytes {
		return false, err
	}
	return true, f.setLimit(quotaID, bytes)
}

// used is what the group referred to when the filesystem last committed a transaction, by default
// every 30 seconds.
func (f filesystem) used(quotaID volume.QuotaID) (bytes uint64, err error) {
	data, err := f.quotaItem(qgroupInfo, groupOf(quotaID))
	return numbers(data, 2)[1], err // generation, rfer
}

// quotaIDOf finds the group of a subvolume.
func (f filesystem) quotaIDOf(subvolume uint64) (volume.QuotaID, error) {
	parents, err := f.items(quotaTree, subvolume, qgroupRelation, 0, math.MaxUint64)
	for _, i := range parents {
		if quotaID := quotaIDOfGroup(i.offset); quotaID != 0 {
			return quotaID, nil
		}
	}
	return 0, err
}

// removeGroup removes a group whose subvolumes have been destroyed. The kernel does that in the
// background, and since Linux 6.10 removes the subvolumes' own groups too. Errors:
// backend.ErrPending.
func (f filesystem) removeGroup(quotaID volume.QuotaID) error {
	err := f.each(quotaTree, groupOf(quotaID), qgroupRelation, func(member item) error {
		root, err := f.items(rootTree, member.offset, rootItem, 0, math.MaxUint64)
		if err != nil {
			return err
		}
		if len(root) > 0 {
			return backend.ErrPending
		}
		return f.removeMember(quotaID, member.offset)
	})
	if err != nil {
		return err
	}
	err = ioctl(f.root, iocQgroupCreate, "remove quota group", &createArgs{group: groupOf(quotaID)})
	// gone already, or with the filesystem's quotas
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTCONN) {
		return nil
	}
	if errors.Is(err, unix.EBUSY) {
		return backend.ErrPending
	}
	return err
}

func (f filesystem) removeMember(quotaID volume.QuotaID, member uint64) error {
	err := ioctl(f.root, iocQgroupAssign, "take subvolume out of quota group",
		&assignArgs{member: member, group: groupOf(quotaID)})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	err = ioctl(f.root, iocQgroupCreate, "remove quota group", &createArgs{group: member})
	if errors.Is(err, unix.EBUSY) { // simple quotas: what it wrote first is still in a snapshot
		return nil
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
