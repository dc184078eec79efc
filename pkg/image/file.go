// Package image is a volume that is a file used as a disk: the file, its growth, its copies. The
// file's loop device is in package loopdev, and what is made and mounted on that device in package
// filesystem.
package image

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/image/filesystem"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Image is the backend of volumes with an image. It makes and grows the file, on whatever
// filesystem the pool has. The loop device and what is in the file come when the volume is staged.
// A file cannot hold more than its size, so no quota ID is needed to limit it.
type Image struct{ allocation volume.Allocation }

var (
	_ backend.Backend = Image{}
	_ backend.Counter = Image{}
)

// New is the backend for images with that allocation.
func New(allocation volume.Allocation) Image { return Image{allocation: allocation} }

// Name implements backend.Backend.
func (Image) Name() string { return "image" }

// Enforces implements backend.Backend.
func (Image) Enforces() bool { return true }

// LimitsInodes implements backend.Backend: the filesystem in the image has its own number.
func (Image) LimitsInodes() bool { return false }

// Make implements backend.Backend. Only root can open the file: pods see it through a loop device.
func (i Image) Make(dir openat.Dir, _ volume.Spec, bytes int64) (*os.File, volume.QuotaID, error) {
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_RDWR
	f, err := dir.OpenFile(backend.Data, flags, 0o600)
	if err != nil {
		return nil, 0, err
	}
	err = errors.Join(noCopyOnWrite(f), f.Chmod(0o600)) // whatever the umask
	if err == nil {
		err = i.extend(f, 0, bytes)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close(), backend.RemoveEmpty(dir, volume.FileOrCreate))
	}
	return f, 0, nil
}

// statBlock is the unit of st_blocks on every filesystem, in bytes (stat(2)).
const statBlock = 512

// noCow is FS_NOCOW_FL of linux/fs.h.
const noCow = 0x800000

// noCopyOnWrite makes btrfs overwrite the file in place, as a disk does. Copy-on-write would
// scatter the image over the disk, and the checksum of a block could be wrong that changes during a
// direct write (btrfs(5), CHECKSUM ALGORITHMS and "C" in FILE ATTRIBUTES). The attribute has to be
// set before the file has content. Reflinks work between two files that have it.
func noCopyOnWrite(f *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.BTRFS_SUPER_MAGIC {
		return err
	}
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|noCow)
	}
	return err
}

// extend gives the file more bytes than it has.
func (i Image) extend(f *os.File, from, to int64) error {
	if i.allocation == volume.Preallocated {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, from, to-from)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("%w: the pool's filesystem cannot allocate ahead: use %q: %q",
				volume.ErrInvalid, volume.ParamAllocation, volume.Sparse)
		}
		if err != nil {
			// The blocks that it has got are beyond the end of the file: nothing is written there.
			return errors.Join(fmt.Errorf("allocate %d bytes: %w", to-from, err), f.Truncate(from))
		}
		failpoint.Here("image.allocated")
	}
	err := f.Truncate(to)
	if errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: no file of the pool's filesystem can have %d bytes", volume.ErrOutOfRange,
			to)
	}
	return err
}

// fill allocates the holes that a copy has kept.
func (i Image) fill(f *os.File) error {
	info, err := f.Stat()
	if err != nil || i.allocation != volume.Preallocated {
		return err
	}
	return i.extend(f, 0, info.Size())
}

// Adopt implements backend.Backend. A file is longer than its record says if a crash interrupted
// its expansion.
func (i Image) Adopt(
	dir openat.Dir, _ volume.QuotaID, _ volume.Spec, bytes int64,
) (repaired bool, err error) {
	f, size, err := open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if size < bytes {
		return false, fmt.Errorf(
			"%w: its image has %d bytes, and its record says %d: the end of it is missing",
			volume.ErrCorrupt,
			size,
			bytes,
		)
	}
	return size > bytes, cut(f, size, bytes)
}

// open opens the image of a volume.
func open(dir openat.Dir) (*os.File, int64, error) {
	f, err := backend.OpenData(dir, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: its image has mode %s", volume.ErrCorrupt, info.Mode())
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// cut makes a file shorter, unless its end has ever been used: a record from a backup, older than
// the image, must not cost data. The device and the filesystem grow only after the record was
// written, so an interrupted expansion has used nothing. Errors: ErrCorrupt, with the file as it
// was.
func cut(f *os.File, from, to int64) error {
	if from <= to {
		return nil
	}
	written, end, err := openat.NextData(int(f.Fd()), to, from)
	if err != nil {
		return err
	}
	if written < end { // else there is a hole, or preallocated blocks
		return fmt.Errorf(
			"%w: its image has %d bytes, some of them written at %d, and its record says %d: it is left as it is",
			volume.ErrCorrupt, from, written, to)
	}
	// A filesystem that was grown need not have written anything there.
	size, err := filesystem.Size(f)
	if err != nil {
		return err
	}
	if size > to {
		return fmt.Errorf(
			"%w: its image has %d bytes, with a filesystem of %d, and its record says %d: it is left as it is",
			volume.ErrCorrupt, from, size, to)
	}
	return errors.Join(f.Truncate(to), f.Sync())
}

// ReserveQuotaID implements backend.Backend.
func (Image) ReserveQuotaID(openat.Dir, volume.QuotaID) volume.QuotaID { return 0 }

// Resize implements backend.Backend. It changes the file. A device that has the file changes with
// loopdev.Device.SetCapacity.
func (i Image) Resize(dir openat.Dir, _ volume.QuotaID, _ volume.Spec, bytes int64) error {
	f, _, err := open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return i.resize(f, bytes)
}

func (i Image) resize(f *os.File, bytes int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() >= bytes {
		return cut(f, info.Size(), bytes)
	}
	if err := i.extend(f, info.Size(), bytes); err != nil {
		return err
	}
	return f.Sync()
}

// Usage implements backend.Backend. Only the size is known: what is used of it, the filesystem in
// the image knows.
func (Image) Usage(data *os.File, _ volume.QuotaID) (volume.Usage, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(data.Fd()), &st); err != nil {
		return volume.Usage{}, fmt.Errorf("stat of %s: %w", data.Name(), err)
	}
	return volume.Usage{TotalBytes: st.Size}, nil
}

// Allocated implements backend.Counter. A sparse file has fewer blocks than its size.
func (Image) Allocated(data *os.File, _ volume.QuotaID) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(data.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat of %s: %w", data.Name(), err)
	}
	return st.Blocks * statBlock, nil
}

// Discard implements backend.Backend. There is nothing that the filesystem removes at once.
func (Image) Discard(openat.Dir) error { return nil }

// Release implements backend.Backend.
func (Image) Release(volume.QuotaID) error { return nil }
