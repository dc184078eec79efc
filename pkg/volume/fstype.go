package volume

import "slices"

// FSType is a filesystem that an image can have, as mount(8) calls it.
type FSType string

// The filesystems of images. The empty one is that of a directory, which is its pool's, and of a raw block volume, which has none.
const (
	Ext4  FSType = "ext4"
	XFS   FSType = "xfs"
	Btrfs FSType = "btrfs"
)

// FSTypes lists them, in the order in which messages name them.
func FSTypes() []FSType { return []FSType{Ext4, XFS, Btrfs} }

// MinimumBytes is the size below which a filesystem of that type is not made: mkfs.xfs and mkfs.btrfs refuse, mkfs.ext4 leaves out the
// journal, without which a crash means a check of everything.
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

func (t FSType) isKnown() bool { return slices.Contains(FSTypes(), t) }

// ImageBlockSize is what an image's size is a multiple of: the block size of every loop device.
const ImageBlockSize = 4096
