package loopdev

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// changeFd is LOOP_CHANGE_FD of linux/loop.h.
const changeFd = 0x4c06

// ResetParameters undoes what a pod that has the device open can ask of it without any capability
// (lo_ioctl in drivers/block/loop.c). The device can be told to detach its file when it is closed
// (LOOP_CLR_FD). A pod that has it open for writing can make it show another part of the file
// (LOOP_SET_STATUS64), with other blocks (LOOP_SET_BLOCK_SIZE) and through the page cache
// (LOOP_SET_DIRECT_IO). ResetParameters says whether anything was changed. It also gives the device
// the size of its file.
func (d *Device) ResetParameters() (changed bool, err error) {
	info, err := unix.IoctlLoopGetStatus64(int(d.file.Fd()))
	if err != nil {
		return false, &os.PathError{Op: "LOOP_GET_STATUS64", Path: d.file.Name(), Err: err}
	}
	if info.Offset != 0 || info.Sizelimit != 0 || info.Flags&unix.LO_FLAGS_AUTOCLEAR != 0 {
		changed = true
		whole := unix.LoopInfo64{Flags: info.Flags &^ unix.LO_FLAGS_AUTOCLEAR}
		if err := unix.IoctlLoopSetStatus64(int(d.file.Fd()), &whole); err != nil {
			return false, &os.PathError{Op: "LOOP_SET_STATUS64", Path: d.file.Name(), Err: err}
		}
	}
	resized, err := d.resetBlocks(info.Flags)
	if err == nil {
		err = d.SetCapacity()
	}
	if err == nil {
		d.status, err = readStatus(d.file)
	}
	return changed || resized, err
}

// resetBlocks resets the block size, and direct I/O if the file's filesystem can do it. If it
// cannot, the device stays as slow as its pod has made it.
func (d *Device) resetBlocks(flags uint32) (changed bool, err error) {
	size, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKSSZGET)
	if err != nil {
		return false, &os.PathError{Op: "BLKSSZGET", Path: d.file.Name(), Err: err}
	}
	if size != BlockSize {
		if err := unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_SET_BLOCK_SIZE, BlockSize); err != nil {
			return false, &os.PathError{Op: "LOOP_SET_BLOCK_SIZE", Path: d.file.Name(), Err: err}
		}
	}
	if flags&unix.LO_FLAGS_DIRECT_IO == 0 {
		err := unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_SET_DIRECT_IO, 1)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return false, &os.PathError{Op: "LOOP_SET_DIRECT_IO", Path: d.file.Name(), Err: err}
		}
	}
	return size != BlockSize, nil
}

// Restore puts a file back on a read-only device. Whoever has such a device open may exchange its
// file (LOOP_CHANGE_FD).
func (d *Device) Restore(image *os.File) error {
	backing, err := openat.Reopen(image, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer backing.Close()
	// The kernel accepts only a file of the same size (loop_change_fd in drivers/block/loop.c). At
	// this offset, which is beyond the end of both files, both sizes are 0.
	away := unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY, Offset: guardOffset}
	if err := unix.IoctlLoopSetStatus64(int(d.file.Fd()), &away); err != nil {
		return &os.PathError{Op: "LOOP_SET_STATUS64", Path: d.file.Name(), Err: err}
	}
	err = unix.IoctlSetInt(int(d.file.Fd()), changeFd, int(backing.Fd()))
	if err != nil {
		err = &os.PathError{Op: "LOOP_CHANGE_FD", Path: d.file.Name(), Err: err}
	}
	_, resetErr := d.ResetParameters()
	return errors.Join(err, resetErr)
}
