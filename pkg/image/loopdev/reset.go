package loopdev

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// changeFd is LOOP_CHANGE_FD of linux/loop.h.
const changeFd = 0x4c06

// Mend undoes what whoever has the device open may have asked of it without any capability
// (lo_ioctl in drivers/block/loop.c): to go when it is closed (LOOP_CLR_FD), and, open for writing,
// to show another part of the file (LOOP_SET_STATUS64), with other blocks (LOOP_SET_BLOCK_SIZE) and
// through the page cache (LOOP_SET_DIRECT_IO). It says whether anything was to be undone. The
// device's size is its file's afterwards.
func (d *Device) Mend() (mended bool, err error) {
	info, err := unix.IoctlLoopGetStatus64(int(d.file.Fd()))
	if err != nil {
		return false, &os.PathError{Op: "LOOP_GET_STATUS64", Path: d.file.Name(), Err: err}
	}
	if info.Offset != 0 || info.Sizelimit != 0 || info.Flags&unix.LO_FLAGS_AUTOCLEAR != 0 {
		mended = true
		whole := unix.LoopInfo64{Flags: info.Flags &^ unix.LO_FLAGS_AUTOCLEAR}
		if err := unix.IoctlLoopSetStatus64(int(d.file.Fd()), &whole); err != nil {
			return false, &os.PathError{Op: "LOOP_SET_STATUS64", Path: d.file.Name(), Err: err}
		}
	}
	resized, err := d.mendBlocks(info.Flags)
	if err == nil {
		err = d.SetCapacity()
	}
	if err == nil {
		d.status, err = readStatus(d.file)
	}
	return mended || resized, err
}

// mendBlocks puts the size of the blocks right. That of direct I/O follows if the file's filesystem
// can do it, and else the device is as slow as its pod has made it.
func (d *Device) mendBlocks(flags uint32) (mended bool, err error) {
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

// Restore puts a file back on a read-only device, which shows another one because whoever has it
// open may exchange the files of such a device (LOOP_CHANGE_FD).
func (d *Device) Restore(image *os.File) error {
	backing, err := os.Open(descriptor(image))
	if err != nil {
		return err
	}
	defer backing.Close()
	// Only a file of the same size is taken (loop_change_fd in drivers/block/loop.c): this far
	// behind their ends both have none.
	away := unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY, Offset: guardOffset}
	if err := unix.IoctlLoopSetStatus64(int(d.file.Fd()), &away); err != nil {
		return &os.PathError{Op: "LOOP_SET_STATUS64", Path: d.file.Name(), Err: err}
	}
	err = unix.IoctlSetInt(int(d.file.Fd()), changeFd, int(backing.Fd()))
	if err != nil {
		err = &os.PathError{Op: "LOOP_CHANGE_FD", Path: d.file.Name(), Err: err}
	}
	_, mendErr := d.Mend()
	return errors.Join(err, mendErr)
}
