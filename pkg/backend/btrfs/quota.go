package btrfs

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// accounting is the way in which a filesystem counts the blocks of subvolumes.
type accounting int

const (
	// none: quotas are off.
	none accounting = iota
	// full quotas count every reference to every extent.
	full
	// simple quotas count an extent for the subvolume that first wrote it.
	simple
)

// status returns the filesystem's accounting. inconsistent means that its numbers are wrong until a
// rescan.
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

// enable turns quotas on: simple quotas, or full quotas if the kernel is older than Linux 6.7.
func (f filesystem) enable() error {
	err := ioctl(f.root, iocQuotaCtl, "enable simple quotas", &quotaArgs{cmd: quotaEnableSimple})
	if errors.Is(err, unix.EINVAL) {
		return ioctl(f.root, iocQuotaCtl, "enable quotas", &quotaArgs{cmd: quotaEnable})
	}
	return err
}

// groupOf returns the quota group of a quota ID. It is of level 1; each subvolume is a group of
// level 0.
func groupOf(quotaID volume.QuotaID) uint64 { return 1<<48 | uint64(quotaID) }

// quotaIDOfGroup returns the quota ID of a quota group; 0 if the group has another level.
func quotaIDOfGroup(group uint64) volume.QuotaID {
	if group>>48 != 1 {
		return 0
	}
	return volume.QuotaID(group & (1<<48 - 1))
}

// createGroup makes a group. A group without a subvolume, which a crash may have left, is free as
// well.
func (f filesystem) createGroup(quotaID volume.QuotaID) (free bool, err error) {
	err = ioctl(f.root, iocQgroupCreate, "create quota group",
		&createArgs{create: 1, group: groupOf(quotaID)})
	if errors.Is(err, unix.EEXIST) {
		members, err := f.items(quotaTree, groupOf(quotaID), qgroupRelation, 0, math.MaxUint64)
		return len(members) == 0, err
	}
	return err == nil, err
}

// ensureGroup makes a group that does not exist, and returns whether it did. Groups vanish when
// somebody turns the filesystem's quotas off.
func (f filesystem) ensureGroup(quotaID volume.QuotaID) (changed bool, err error) {
	data, err := f.quotaItem(qgroupInfo, groupOf(quotaID))
	if err != nil || data != nil {
		return false, err
	}
	err = ioctl(f.root, iocQgroupCreate, "create quota group",
		&createArgs{create: 1, group: groupOf(quotaID)})
	return true, err
}

// ensureMember puts a subvolume into a group if it is not a member, and returns whether it did.
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

// noLimit is also the limit of a group that has none.
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

// ensureLimit sets a limit that differs, and returns whether it did: at a start those of almost all
// volumes are right.
func (f filesystem) ensureLimit(quotaID volume.QuotaID, bytes uint64) (changed bool, err error) {
	have, err := f.limit(quotaID)
	if err != nil || have == bytes {
		return false, err
	}
	return true, f.setLimit(quotaID, bytes)
}

// used returns the bytes of a group at the last commit of the filesystem, by default one every 30
// seconds.
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

// removeGroup removes a group whose subvolumes were destroyed. The kernel removes destroyed
// subvolumes in the background and, since Linux 6.10, their groups of level 0 as well. Errors:
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
	// The group is gone already, or quotas were turned off.
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
	// EBUSY: with simple quotas, a snapshot still has blocks that the subvolume wrote first.
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
