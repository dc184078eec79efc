package staging

import (
	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
)

// Limit gives the devices that the image is on the limits of the volume, or none. A volume that is
// not attached gets them when it is. Errors: ErrPrecondition when limits cannot hold on this node.
func (v Volume) Limit(l *iolimit.Limiter) error {
	if !l.IsOn() || !v.Spec.IsImage() {
		return l.Check(v.Mutable.IO)
	}
	var devices []iolimit.Device
	err := v.eachDevice(func(d *loopdev.Device) error {
		devices = append(devices, iolimit.LoopDevice(d.Number()))
		return nil
	})
	if err != nil {
		return err
	}
	return l.Set(v.ID.String(), v.Mutable.IO, devices...)
}

// LimitNew is Limit for a volume that was just attached: without limits there is nothing to do.
func (v Volume) LimitNew(l *iolimit.Limiter) error {
	if v.Mutable.IO.IsNone() {
		return nil
	}
	return v.Limit(l)
}

// RecallLimits takes over the limits that an earlier process has set. Pools that are opened later
// set those of their volumes again.
func RecallLimits(l *iolimit.Limiter) error {
	return l.Recall(func(d iolimit.Device) bool {
		_, err := loopdev.BackingPath(int(d.Minor))
		return err != nil
	})
}
