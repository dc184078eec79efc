package volume

import (
	"cmp"
	"fmt"
	"slices"
)

// Backing is what holds a volume's data.
type Backing string

const (
	// DirectoryBacking is a directory or a file of the pool's own filesystem. It is empty, as in
	// the records from before there were images.
	DirectoryBacking Backing = ""
	// ImageBacking is a file used as a disk: with a filesystem in it, or as a raw block volume.
	ImageBacking Backing = "image"
)

// FSType is a filesystem that an image can have, as mount(8) calls it.
type FSType string

// The filesystems of images. The empty one is that of a directory, which is its pool's, and of a
// raw block volume, which has none.
const (
	Ext4  FSType = "ext4"
	XFS   FSType = "xfs"
	Btrfs FSType = "btrfs"
)

// FSTypes lists them, in the order in which messages name them.
func FSTypes() []FSType { return []FSType{Ext4, XFS, Btrfs} }

// MinimumBytes is the size below which a filesystem of that type is not made: mkfs.xfs and
// mkfs.btrfs refuse, mkfs.ext4 leaves out the journal, without which a crash means a check of
// everything.
func (t FSType) MinimumBytes() int64 {
	switch t {
	case Ext4:
		return 16 << 20
	case XFS:
		return 300 << 20
	case Btrfs:
		return 128 << 20
	default:
		return ImageBlockSize
	}
}

// ImageBlockSize is what an image's size is a multiple of: the block size of every loop device.
const ImageBlockSize = 4096

// Allocation says when an image takes its blocks of the pool's filesystem.
type Allocation string

const (
	// Sparse takes a block when it is first written to, and gives it back when the filesystem in
	// the image discards it.
	Sparse Allocation = "sparse"
	// Preallocated takes all of them when the image is made: a write never meets a full disk, until
	// a reflink shares them with a copy.
	Preallocated Allocation = "preallocated"
)

// AccessType is what a caller wants to see of a volume (CSI spec, VolumeCapability.access_type).
type AccessType struct {
	// Block is a raw block volume.
	Block bool
	// FSType is that of VolumeCapability.MountVolume; empty leaves the choice to the class.
	FSType FSType
}

func (t AccessType) String() string {
	switch {
	case t.Block:
		return "a raw block volume"
	case t.FSType != "":
		return fmt.Sprintf("a volume with the filesystem %s", t.FSType)
	default:
		return "a mounted volume"
	}
}

// ParseFSType reads the fs_type of a VolumeCapability; empty is none. Errors: ErrInvalid.
func ParseFSType(s string) (FSType, error) {
	if t := FSType(s); s == "" || slices.Contains(FSTypes(), t) {
		return t, nil
	}
	return "", fmt.Errorf("%w: fsType %q is none of %v", ErrInvalid, s, FSTypes())
}

// SpecFor returns the specification of a volume of the class that is requested with that access.
// Errors: ErrInvalid if class and access contradict each other.
func (p *Parameters) SpecFor(t AccessType) (Spec, error) {
	spec := p.Spec
	switch {
	case !p.Git.IsNone() && t != AccessType{}:
		return Spec{}, fmt.Errorf("%w: parameter %q is %s: content of git is not %s", ErrInvalid,
			ParamSource, sourceGit, t)
	case p.Path != "" && t != AccessType{}:
		return Spec{}, fmt.Errorf("%w: parameter %q is %q: a path of the host is not %s", ErrInvalid,
			ParamPath, p.Path, t)
	case p.backing == backingDirectory && t != AccessType{}:
		return Spec{}, fmt.Errorf(
			"%w: parameter %q is %s, which is the pool's own filesystem; requested: %s: use %s",
			ErrInvalid,
			ParamBacking,
			backingDirectory,
			t,
			backingImage,
		)
	case p.Spec.Inodes != 0 && (t != AccessType{} || p.backing == backingImage):
		return Spec{}, fmt.Errorf(
			"%w: parameter %q is for directories: the filesystem of an image has its own number",
			ErrInvalid,
			ParamInodes,
		)
	case p.backing == backingEnforced:
		return p.enforcedSpec(t)
	case t.Block:
		return p.blockSpec()
	case t.FSType != "" || p.backing == backingImage:
		spec.Backing, spec.FSType = ImageBacking, cmp.Or(t.FSType, Ext4)
		spec.Allocation = cmp.Or(p.allocation, Sparse)
		return spec, nil
	case p.allocation != "":
		return Spec{}, fmt.Errorf("%w: parameter %q is for images: add %q: %s", ErrInvalid,
			ParamAllocation, ParamBacking, backingImage)
	default:
		return spec, nil
	}
}

// blockSpec is that of a raw block volume. Mode and owner of the class are for its directories: the
// node of a device is made by the container runtime.
func (p *Parameters) blockSpec() (Spec, error) {
	if p.Spec.Type != DirectoryOrCreate {
		return Spec{}, fmt.Errorf(
			"%w: parameter %q is %q, which a raw block volume (volumeMode: Block) cannot be",
			ErrInvalid,
			ParamType,
			p.Spec.Type,
		)
	}
	return Spec{
		Type:       DirectoryOrCreate,
		Backing:    ImageBacking,
		Allocation: cmp.Or(p.allocation, Sparse),
	}, nil
}

// IsImage says whether the data is a file used as a disk.
func (s Spec) IsImage() bool { return s.Backing == ImageBacking }

// IsBlock says whether pods see a raw block device.
func (s Spec) IsBlock() bool { return s.IsImage() && s.FSType == "" }

// CheckAccess refuses to show a volume as what it is not. Errors: ErrInvalid.
func (s Spec) CheckAccess(t AccessType) error {
	switch {
	case t.Block != s.IsBlock():
		return fmt.Errorf("%w: the volume is %s; requested: %s", ErrInvalid,
			AccessType{Block: s.IsBlock(), FSType: s.FSType}, t)
	case t.FSType != "" && t.FSType != s.FSType:
		return fmt.Errorf("%w: the volume's fsType is %q (empty: that of its pool); requested: %q",
			ErrInvalid, s.FSType, t.FSType)
	default:
		return nil
	}
}

// Check refuses what no class can have. Errors: ErrInvalid.
func (s Spec) Check() error {
	known := slices.Contains(ManagedTypes(), s.Type) &&
		slices.Contains([]Backing{DirectoryBacking, ImageBacking}, s.Backing)
	switch {
	case !known,
		s.FSType != "" && !slices.Contains(FSTypes(), s.FSType),
		!s.IsImage() && (s.FSType != "" || s.Allocation != ""),
		s.IsImage() && s.Allocation != Sparse && s.Allocation != Preallocated,
		s.IsBlock() && (s.Type != DirectoryOrCreate || s.EnforcedSize),
		s.IsImage() && s.Inodes != 0:
		return fmt.Errorf("%w: %+v is no volume of this driver", ErrInvalid, s)
	default:
		return nil
	}
}

// Size is the size to make: the least that satisfies the range and that such a volume can have. It
// is never rounded down. Errors: ErrOutOfRange when the range allows none.
func (s Spec) Size(r SizeRange) (int64, error) {
	bytes := r.Choose()
	if !s.IsImage() {
		return bytes, nil
	}
	bytes = roundUp(max(bytes, s.FSType.MinimumBytes()), ImageBlockSize)
	if !r.Contains(bytes) {
		return 0, fmt.Errorf(
			"%w: requested: %s; an image has at least %d bytes (fsType %q), and a multiple of %d",
			ErrOutOfRange,
			r,
			s.FSType.MinimumBytes(),
			s.FSType,
			ImageBlockSize,
		)
	}
	return bytes, nil
}

// MinimumBytes is the size of the smallest such volume; 0 is any.
func (s Spec) MinimumBytes() int64 {
	if !s.IsImage() {
		return 0
	}
	return s.FSType.MinimumBytes()
}

// Largest is the size of the largest such volume for which there is room in so many bytes; 0 is
// none.
func (s Spec) Largest(room int64) int64 {
	if !s.IsImage() {
		return room
	}
	bytes := room / ImageBlockSize * ImageBlockSize
	if bytes < s.FSType.MinimumBytes() {
		return 0
	}
	return bytes
}

func roundUp(n, multiple int64) int64 { return (n + multiple - 1) / multiple * multiple }

// backing is the class's word for it.
type backing string

const (
	backingAuto      backing = "auto"
	backingDirectory backing = "directory"
	backingImage     backing = "image"
	backingEnforced  backing = backing(EnforcedBacking)
)

func parseBacking(s string) (backing, error) {
	switch b := backing(s); b {
	case backingAuto, backingDirectory, backingImage, backingEnforced:
		return b, nil
	default:
		return "", fmt.Errorf("want %s, %s, %s or %s", backingAuto, backingDirectory, backingImage,
			backingEnforced)
	}
}

func parseAllocation(s string) (Allocation, error) {
	switch a := Allocation(s); a {
	case Sparse, Preallocated:
		return a, nil
	default:
		return "", fmt.Errorf("want %s or %s", Sparse, Preallocated)
	}
}
