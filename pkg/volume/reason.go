package volume

import (
	"errors"
	"io/fs"
	"syscall"
)

// Reason says in a word why a pool, or all of a node, cannot be used. It is the label of a metric
// and what a stranger may read, so there are few, and none of them has a path. The error that it
// belongs to says more.
type Reason string

// The reasons.
const (
	ReasonAbsent     Reason = "absent"      // nothing is at the pool's path
	ReasonDamaged    Reason = "damaged"     // pool.json is missing or unreadable
	ReasonDisplaced  Reason = "displaced"   // something else stands at the path of the open pool
	ReasonDiskFailed Reason = "disk_failed" // the filesystem gives I/O errors
	ReasonDuplicate  Reason = "duplicate"   // another pool has the same UUID
	ReasonForeign    Reason = "foreign"     // the directory holds something else
	ReasonHangs      Reason = "hangs"       // the filesystem does not answer
	ReasonInUse      Reason = "in_use"      // another process has the pool
	ReasonNewer      Reason = "newer"       // a newer driver wrote the pool
	ReasonNoQuota    Reason = "no_quota"    // the filesystem has no quotas, and they are required
	ReasonNotMounted Reason = "not_mounted" // no filesystem is mounted at the pool's path
	ReasonOpening    Reason = "opening"     // the driver is opening the pool
	ReasonOther      Reason = "other"       // none of these
	ReasonOverlaps   Reason = "overlaps"    // the path leads to another pool or to kubelet's directory
	ReasonReadOnly   Reason = "read_only"   // the filesystem is mounted read-only
)

// The reasons why a node can have no volumes.
const (
	ReasonMayNotMount    Reason = "may_not_mount"   // the driver has no CAP_SYS_ADMIN
	ReasonKubeletAbsent  Reason = "kubelet_absent"  // kubelet's directory is not there
	ReasonKubeletHangs   Reason = "kubelet_hangs"   // the filesystem of kubelet's directory hangs
	ReasonKubeletLink    Reason = "kubelet_link"    // a directory in kubelet's is a symbolic link
	ReasonKubeletPrivate Reason = "kubelet_private" // mounts in kubelet's directory stay unseen
)

// reasonError is an error with a reason, and with the text of that error.
type reasonError struct {
	error
	reason Reason
}

func (e reasonError) Unwrap() error { return e.error }

// Because gives an error a reason.
func Because(reason Reason, err error) error { return reasonError{err, reason} }

// ReasonOf is the reason of an error: the one that it was given, else what its cause says.
func ReasonOf(err error) Reason {
	var given reasonError
	switch {
	case errors.As(err, &given):
		return given.reason
	case errors.Is(err, ErrUnresponsive):
		return ReasonHangs
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ESHUTDOWN):
		return ReasonDiskFailed
	case errors.Is(err, syscall.EROFS):
		return ReasonReadOnly
	case errors.Is(err, fs.ErrNotExist):
		return ReasonAbsent
	case errors.Is(err, ErrCorrupt):
		return ReasonDamaged
	}
	return ReasonOther
}
