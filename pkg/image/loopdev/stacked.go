package loopdev

import (
	"errors"
	"os"
	"strings"
)

// stacked opens the devices on this device's node, but for its guard. kubelet makes one for each
// pod that has a raw block volume (AttachFileDevice of Kubernetes
// pkg/volume/util/volumepathhandler). The caller closes them. A device whose file does not answer
// holds it up.
func (d *Device) stacked() ([]*Device, error) {
	numbers, err := Attached()
	if err != nil {
		return nil, err
	}
	var found []*Device
	for _, n := range numbers {
		if n == d.number {
			continue
		}
		other, err := Open(n)
		if err != nil { // detached meanwhile, or of a dead disk: a node is in memory
			continue
		}
		if on, ok := numberOf(other.status.node); ok && on == d.number && !other.guards(d) {
			found = append(found, other)
			continue
		}
		other.Close()
	}
	return found, nil
}

// DetachStacked detaches the devices that kubelet has put on this device's node and lost: the bind
// mount through which kubelet has opened the node is in its directory, or gone. A device on the
// node in /dev is an operator's, and a device that is mounted or claimed is in use: both stay. The
// caller has made sure that no pod has the device.
func (d *Device) DetachStacked() error {
	found, err := d.stacked()
	if err != nil {
		return err
	}
	var errs []error
	for _, other := range found {
		errs = append(errs, other.detachLost())
		other.Close()
	}
	return errors.Join(errs...)
}

func (d *Device) detachLost() error {
	file, err := BackingPath(d.number)
	if errors.Is(err, os.ErrNotExist) || strings.HasPrefix(file, "/dev/") {
		return nil
	}
	if err != nil {
		return err
	}
	if claimed, err := d.IsClaimed(); claimed || err != nil {
		return err
	}
	return d.clear()
}
