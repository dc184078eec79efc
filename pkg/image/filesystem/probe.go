package filesystem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Found is the filesystem that is recognised on a device or in a file.
type Found struct {
	// Type is the filesystem's name in blkid(8). It is empty if none is recognised.
	Type string
	// Bytes is the size of an ext4, an XFS or a btrfs by its superblock. It is 0 for any other one.
	Bytes int64
}

// Probe says which filesystem is in a file or on a device, which is open for reading. Errors:
// ErrNode when a program is missing.
func Probe(f *os.File) (Found, error) {
	if err := require("blkid"); err != nil {
		return Found{}, err
	}
	path := openat.PathForChildren(f)
	name, err := (&mount.SafeFormatAndMount{Exec: utilexec.New()}).GetDiskFormat(path)
	if err != nil {
		return Found{}, fmt.Errorf("blkid %s: %w", f.Name(), err)
	}
	if !slices.Contains(volume.FSTypes(), volume.FSType(name)) {
		return Found{Type: name}, nil
	}
	size, err := Size(f)
	return Found{Type: name, Bytes: size}, err
}

// superblock is where a filesystem has the superblock, how it is known, and what size it says.
type superblock struct {
	offset      int64 // in the filesystem, in bytes
	magicOffset int   // in the superblock
	magic       string
	size        func(superblock []byte) int64
}

// superblockBytes is how much is read of a superblock.
const superblockBytes = 1024

// superblocks are those of fs/ext4/ext4.h (struct ext4_super_block), fs/xfs/libxfs/xfs_format.h
// (struct xfs_dsb) and include/uapi/linux/btrfs_tree.h (struct btrfs_super_block).
var superblocks = []superblock{
	{offset: 1024, magicOffset: 56, magic: "\x53\xef", size: ext4Bytes},
	{offset: 0, magicOffset: 0, magic: "XFSB", size: xfsBytes},
	{offset: 64 << 10, magicOffset: 64, magic: "_BHRfS_M", size: btrfsBytes},
}

// Size is the size of the ext4, XFS or btrfs in a file or on a device, by its superblock. It is 0
// if there is none, or if the superblock is damaged. It starts no program.
func Size(f *os.File) (int64, error) {
	content := make([]byte, superblockBytes)
	for _, s := range superblocks {
		n, err := f.ReadAt(content, s.offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if n == len(content) && strings.HasPrefix(string(content[s.magicOffset:]), s.magic) {
			return s.size(content), nil
		}
	}
	return 0, nil
}

// ext4Bytes is s_blocks_count_lo, s_blocks_count_hi and s_log_block_size.
func ext4Bytes(b []byte) int64 {
	const has64bit = 0x80 // INCOMPAT_64BIT of s_feature_incompat
	blocks := uint64(binary.LittleEndian.Uint32(b[4:]))
	if binary.LittleEndian.Uint32(b[0x60:])&has64bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(b[0x150:])) << 32
	}
	return product(blocks, 1024<<(binary.LittleEndian.Uint32(b[24:])&0xf))
}

// xfsBytes is sb_dblocks times sb_blocksize (fs/xfs/libxfs/xfs_format.h, struct xfs_dsb).
func xfsBytes(b []byte) int64 {
	return product(binary.BigEndian.Uint64(b[8:]), uint64(binary.BigEndian.Uint32(b[4:])))
}

// btrfsBytes is total_bytes.
func btrfsBytes(b []byte) int64 { return product(binary.LittleEndian.Uint64(b[0x70:]), 1) }

// product is the number of bytes in blocks; 0 if it is no possible size.
func product(blocks, blockBytes uint64) int64 {
	if blockBytes == 0 || blocks > volume.MaxCapacityBytes/blockBytes {
		return 0
	}
	return int64(blocks * blockBytes) //nolint:gosec // at most MaxCapacityBytes
}
