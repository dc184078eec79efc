package staging

import (
	"context"
	"sync"

	"k8s.io/klog/v2"

	"github.com/csi-hostpath/csi-hostpath/pkg/image/loopdev"
	"github.com/csi-hostpath/csi-hostpath/pkg/iolimit"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Limit gives the devices that the image is on the limits of the volume, or none. A volume that is
// not attached gets them when it is. Errors: ErrPrecondition when limits cannot hold on this node.
func (v Volume) Limit(l *iolimit.Limiter) error {
	if !l.IsOn() || !v.Spec.IsImage() {
		return l.Check(v.Mutable.IO)
	}
	return v.setLimits(l, v.Mutable.IO)
}

// setLimits gives the devices that the image is on limits, or none.
func (v Volume) setLimits(l *iolimit.Limiter, limits volume.IOLimits) error {
	if !l.IsOn() {
		return nil
	}
	var devices []iolimit.Device
	err := v.eachDevice(func(d *loopdev.Device) error {
		devices = append(devices, iolimit.LoopDevice(d.Number()))
		return nil
	})
	if err != nil {
		return err
	}
	return l.Set(v.ID.String(), limits, devices...)
}

// LimitNew is Limit for a volume that was just attached. One without limits takes away those that
// an earlier volume has left on its device. Where nothing is limited it does nothing.
func (v Volume) LimitNew(l *iolimit.Limiter) error {
	if v.Mutable.IO.IsNone() && !l.HasAny() {
		return nil
	}
	return v.Limit(l)
}

// Pools finds open pools.
type Pools interface {
	ByID(id volume.PoolID) (*pool.Pool, error)
}

// Unlimit lifts the limits of a volume, for what must not wait for them, and returns what sets them
// again on the devices that the volume has then, unless another still needs them lifted. It must be
// called. The limits of a volume whose pool is not open, or whose disk is dead, wait for the pool's
// start.
func Unlimit(
	ctx context.Context, l *iolimit.Limiter, pools Pools, id volume.ID,
) (again func()) {
	if err := l.Lift(id.String()); err != nil {
		klog.FromContext(ctx).Error(err, "The I/O limits of a volume could not be lifted", "volumeID", id)
	}
	return sync.OnceFunc(func() {
		if l.Unlift(id.String()) {
			LimitRest(ctx, l, pools, id)
		}
	})
}

// LimitRest limits the devices that a volume still has.
func LimitRest(ctx context.Context, l *iolimit.Limiter, pools Pools, id volume.ID) {
	p, err := pools.ByID(id.Pool())
	if err != nil {
		return
	}
	err = limitAsRecorded(l, func() (Volume, error) {
		v, err := p.Get(id)
		return Volume{v}, err
	})
	if err != nil {
		klog.FromContext(ctx).Error(err, "The I/O of a volume is not limited", "volumeID", id)
	}
}

// limitAsRecorded gives a volume the limits of its record. Whoever changes the record sets the
// limits after it, and may be overtaken here: so the record is read again after they are set.
func limitAsRecorded(l *iolimit.Limiter, record func() (Volume, error)) error {
	v, err := record()
	for err == nil {
		failed := v.LimitNew(l)
		was := v.Mutable.IO
		if v, err = record(); err == nil && v.Mutable.IO == was {
			return failed
		}
	}
	return nil // the volume is gone
}

// RecallLimits takes over the limits that an earlier process has set. Pools that are opened later
// set those of their volumes again.
func RecallLimits(l *iolimit.Limiter) error {
	return l.Recall(func(d iolimit.Device) bool {
		_, err := loopdev.BackingPath(int(d.Minor))
		return err != nil
	})
}
