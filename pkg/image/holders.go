package image

import (
	"fmt"
	"os"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// DetachStacked detaches the loop devices that kubelet has put on the devices of an image and lost.
// The data is the image, open with O_PATH; no pod has a device of it.
func DetachStacked(data *os.File) error {
	return EachDevice(data, (*loopdev.Device).DetachStacked)
}

// DescribeHolders is the error of CheckDetached with the names of those who hold the devices of an
// image. proc is the directory of a proc filesystem. Errors: volume.ErrInUse, or what CheckDetached
// returns meanwhile.
func DescribeHolders(data *os.File, proc string) error {
	return EachDevice(data, func(d *loopdev.Device) error {
		holders := d.Holders(proc)
		if len(holders) == 0 {
			return fmt.Errorf("%w: its image is on %s, and the driver does not see who holds that: run on the "+
				"node grep -l %s /proc/*/mountinfo, lsof %s and losetup --list",
				volume.ErrInUse, d.Path(), d.Path(), d.Path())
		}
		return fmt.Errorf("%w: its image is on %s, held by %s", volume.ErrInUse, d.Path(),
			strings.Join(holders, "; "))
	})
}
