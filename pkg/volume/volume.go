// Package volume has the values that move between the driver's layers: names, IDs, specifications,
// volumes, and the errors that every layer shares. It uses the standard library only and nothing of
// this module.
package volume

import (
	"fmt"
	"time"
)

// Volume is what a pool knows of one volume. It is a value; changing a copy changes nothing on
// disk.
type Volume struct {
	ID ID
	// Name is what the caller of CreateVolume chose.
	Name Name
	Spec Spec
	// CapacityBytes is the size that was promised.
	CapacityBytes int64
	// SharedBytes is what it may hold beyond its size, because it shares them with what it was made
	// from, and the filesystem counts them for that.
	SharedBytes int64
	Created     time.Time
	Owner       Owner
	// Source is what its content was copied from.
	Source Source
	// QuotaID is 0 where the filesystem counts nothing for the volume.
	QuotaID QuotaID
	// FilesystemBytes is the size for which an image's filesystem was made, or to which it has been
	// grown; 0 as long as it has none.
	FilesystemBytes int64
	// Formatting says that the driver has begun to make an image's filesystem: what is in the image
	// is incomplete, and no pod has seen it. It is false when FilesystemBytes is not 0.
	Formatting bool
	// Mutable is what its VolumeAttributesClass says.
	Mutable Mutable
}

// QuotaID is what a filesystem counts blocks under: a project ID on XFS and ext4, a quota group on
// btrfs. It is kept in the records. 0 is none.
type QuotaID uint64

// LimitedSpec is the specification with the limits that hold now: those of the
// VolumeAttributesClass take precedence (CSI spec, CreateVolume).
func (v Volume) LimitedSpec() Spec {
	s := v.Spec
	if v.Mutable.Inodes != 0 {
		s.Inodes = v.Mutable.Inodes
	}
	return s
}

// PromisedBytes is what the pool counts for the volume.
func (v Volume) PromisedBytes() int64 { return v.CapacityBytes + v.SharedBytes }

// IsInline says whether the volume lives with a pod.
func (v Volume) IsInline() bool { return v.Owner.PodUID != "" }

// IsGitContent says whether the volume has content of git. It lives as long as pods of the node
// show it.
func (v Volume) IsGitContent() bool { return v.Owner.Git != "" }

// Usage is what a volume holds and can hold.
type Usage struct {
	TotalBytes, UsedBytes, AvailableBytes    int64
	TotalInodes, UsedInodes, AvailableInodes int64
}

// SizeRange is how large a volume may be, in bytes. Zero means not said, for either bound.
type SizeRange struct {
	Required int64
	Limit    int64
}

// DefaultCapacityBytes is the size of a volume whose creator names none: 1 GiB.
const DefaultCapacityBytes = 1 << 30

// MaxCapacityBytes is more than any filesystem holds: 1 EiB. What is larger is a mistake, and sums
// of it would not be numbers.
const MaxCapacityBytes = 1 << 60

// ParseSizeRange checks the two numbers of a CSI capacity_range. Errors: ErrInvalid for a negative
// number, ErrOutOfRange for a limit below the requirement, or a requirement that nothing could
// meet.
func ParseSizeRange(required, limit int64) (SizeRange, error) {
	if required < 0 || limit < 0 {
		return SizeRange{}, fmt.Errorf(
			"%w: capacity range is required=%d limit=%d bytes: a size is never negative",
			ErrInvalid,
			required,
			limit,
		)
	}
	if limit > 0 && required > limit {
		return SizeRange{}, fmt.Errorf(
			"%w: capacity range asks for at least %d and at most %d bytes: no size is both",
			ErrOutOfRange,
			required,
			limit,
		)
	}
	if required > MaxCapacityBytes {
		return SizeRange{}, fmt.Errorf(
			"%w: capacity range asks for %d bytes, and no volume can have more than %d",
			ErrOutOfRange,
			required,
			int64(MaxCapacityBytes),
		)
	}
	return SizeRange{Required: required, Limit: limit}, nil
}

// Choose is the size to make: the least that satisfies the range, DefaultCapacityBytes where it
// says nothing.
func (r SizeRange) Choose() int64 {
	switch {
	case r.Required > 0:
		return r.Required
	case r.Limit > 0:
		return min(r.Limit, DefaultCapacityBytes)
	default:
		return DefaultCapacityBytes
	}
}

// String says the range in words.
func (r SizeRange) String() string {
	if r.Limit == 0 {
		return fmt.Sprintf("at least %d bytes", r.Required)
	}
	return fmt.Sprintf("%d to %d bytes", r.Required, r.Limit)
}

// Contains says whether an existing volume of that size satisfies the range.
func (r SizeRange) Contains(bytes int64) bool {
	return bytes >= r.Required && (r.Limit == 0 || bytes <= r.Limit)
}

// CreateRequest is what CreateVolume asks of a pool.
type CreateRequest struct {
	Name  Name
	Size  SizeRange
	Spec  Spec
	Owner Owner
	// Source is what the volume's content is to be copied from; the zero Source is nothing.
	Source Source
	// Mutable is what the VolumeAttributesClass says.
	Mutable Mutable
}

// CheckAnsweredBy says whether an existing volume is what the request asks for. Errors:
// ErrIncompatible (CSI spec, CreateVolume: ALREADY_EXISTS).
func (r CreateRequest) CheckAnsweredBy(v Volume) error {
	switch {
	case v.Name != r.Name:
		return fmt.Errorf("%w: volume %s has the name %q; requested: %q", ErrIncompatible, v.ID, v.Name,
			r.Name)
	case v.Owner.PodUID != r.Owner.PodUID:
		return fmt.Errorf("%w: volume %s belongs to the pod with the UID %q (empty: to no pod); requested: %q",
			ErrIncompatible, v.ID, v.Owner.PodUID, r.Owner.PodUID)
	case v.Owner.Git != r.Owner.Git:
		return fmt.Errorf("%w: volume %s has content of %q (empty: of no repository); requested: %q",
			ErrIncompatible, v.ID, v.Owner.Git, r.Owner.Git)
	case v.Source != r.Source:
		return fmt.Errorf("%w: volume %s was made from %s; requested: from %s", ErrIncompatible, v.ID,
			v.Source, r.Source)
	case v.Spec != r.Spec.DecideAs(v.Spec):
		return fmt.Errorf("%w: volume %s exists%s", ErrIncompatible, v.ID,
			v.Spec.Differences(r.Spec.DecideAs(v.Spec)))
	case v.Mutable != r.Mutable:
		return fmt.Errorf("%w: volume %s exists%s", ErrIncompatible, v.ID,
			v.Mutable.Differences(r.Mutable))
	case !r.Size.Contains(v.CapacityBytes):
		return fmt.Errorf("%w: volume %s has %d bytes; requested: %s", ErrIncompatible, v.ID,
			v.CapacityBytes, r.Size)
	default:
		return nil
	}
}
