package image

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// accesses are the devices that one image may have: one for all pods that write, and one for all
// pods that only read. Pods that only read need a device of their own: even a read-only mount of a
// device's node lets a pod write to the device.
func accesses() []loopdev.Access { return []loopdev.Access{loopdev.ReadWrite, loopdev.ReadOnly} }

// EachDevice calls do for every device that an image, open with O_PATH, is on, and closes the
// device afterwards.
func EachDevice(f *os.File, do func(*loopdev.Device) error) error {
	var errs []error
	for _, access := range accesses() {
		device, err := loopdev.Find(f, access)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = do(device)
			device.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// CheckDetached refuses the data of a volume, open with O_PATH, if the data is an image on a loop
// device: the volume is staged, or another program uses the image. Errors: ErrInUse.
func CheckDetached(data *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(data.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return err
	}
	return EachDevice(data, func(d *loopdev.Device) error {
		return fmt.Errorf("%w: its image is on %s: unmount what that shows, and detach it (losetup --detach)",
			volume.ErrInUse, d.Path())
	})
}

// IsOn says whether a device has that file, which may be open with O_PATH only.
func IsOn(f *os.File, device *loopdev.Device) bool {
	id, err := openat.IdentityOf(f)
	return err == nil && id == device.Backing()
}
