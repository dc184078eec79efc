// Package iolimit limits what pods may do on a block device, by control groups: io.max of cgroup
// v2, where all pods of the node share the limit, or blkio.throttle of cgroup v1, where each
// container has it for itself. An image has a device of its own, so a limit for the device is one
// for the volume, whichever pods use it.
package iolimit

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Device is the number of a block device.
type Device struct{ Major, Minor uint32 }

// LoopDevice is the device /dev/loop<number>.
func LoopDevice(number int) Device {
	const loopMajor = 7                                    // Documentation/admin-guide/devices.txt
	return Device{Major: loopMajor, Minor: uint32(number)} //nolint:gosec // a minor has 20 bits
}

func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// Options say where the node's control groups are.
type Options struct {
	// Cgroups is where the driver sees the node's /sys/fs/cgroup. Empty: nothing is limited.
	Cgroups string
	// PodsGroup is the group that kubelet has made for all pods, below the root of the hierarchy.
	// Empty is kubepods.slice or kubepods, as kubelet makes it without a --cgroup-root.
	PodsGroup string
}

// Limiter sets limits and remembers which. It may be used concurrently. The nil Limiter is off.
type Limiter struct {
	opts Options

	mu sync.Mutex
	// limited has the devices with a limit. Those that an earlier process has left have no volume.
	limited map[Device]limited
	// lifts are the volumes that have no limits for a while.
	lifts map[string]lifts
}

type limited struct {
	volume string
	limits volume.IOLimits
	// failed says that a group may lack a part of the limits or, if there are none, may have some that
	// could not be lifted.
	failed bool
}

// lifts are how often a volume's limits are lifted at the same time, and whether it has any.
type lifts struct {
	count  int
	hasAny bool
}

// New makes a Limiter.
func New(opts Options) *Limiter {
	return &Limiter{opts: opts, limited: map[Device]limited{}, lifts: map[string]lifts{}}
}

// IsOn says whether the operator wants limits on this node.
func (l *Limiter) IsOn() bool { return l != nil && l.opts.Cgroups != "" }

// HasAny says whether any device has limits, whosever they are.
func (l *Limiter) HasAny() bool {
	if !l.IsOn() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.limited) > 0
}

// Check refuses limits that cannot hold on this node. Errors: ErrPrecondition, with the remedy.
func (l *Limiter) Check(limits volume.IOLimits) error {
	if limits.IsNone() {
		return nil
	}
	if !l.IsOn() {
		return fmt.Errorf("%w: I/O limits are off on this node: set ioLimits in the driver's "+
			"configuration (in the chart config.ioLimits), or set the limits of the VolumeAttributesClass "+
			"to %q", volume.ErrPrecondition, volume.MutableDefault)
	}
	_, err := findHierarchy(l.opts)
	return err
}

// Set limits the devices that a volume has, and lifts the limits of devices that it had. The limits
// are those of each device. While they are lifted none are set: the last Unlift says that they are
// to be. Refresh tries again what fails. Errors: ErrPrecondition when they cannot hold here.
func (l *Limiter) Set(id string, limits volume.IOLimits, devices ...Device) error {
	refused := l.Check(limits)
	if !l.IsOn() {
		return refused
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now, ok := l.lifts[id]; ok && !limits.IsNone() {
		l.lifts[id] = lifts{count: now.count, hasAny: true}
		limits = volume.IOLimits{}
	}
	var errs []error
	for d, has := range l.limited {
		if has.volume == id && !slices.Contains(devices, d) {
			errs = append(errs, l.lift(d))
		}
	}
	for _, d := range devices {
		if limits.IsNone() {
			errs = append(errs, l.lift(d))
		} else {
			errs = append(errs, l.limit(d, limited{volume: id, limits: limits}))
		}
	}
	if refused != nil {
		return refused
	}
	return errors.Join(errs...)
}

// Lift lifts the limits of all devices of a volume until Unlift, which must follow, also after an
// error. Several may lift them at the same time.
func (l *Limiter) Lift(id string) error {
	if !l.IsOn() {
		return nil
	}
	l.mu.Lock()
	now := l.lifts[id]
	now.count++
	for _, has := range l.limited {
		now.hasAny = now.hasAny || has.volume == id
	}
	l.lifts[id] = now
	l.mu.Unlock()
	return l.Set(id, volume.IOLimits{})
}

// Unlift ends one Lift. After the last it is true if there were limits: they are to be set again.
func (l *Limiter) Unlift(id string) bool {
	if !l.IsOn() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.lifts[id]
	now.count--
	if now.count > 0 {
		l.lifts[id] = now
		return false
	}
	delete(l.lifts, id)
	return now.hasAny
}

// limit writes a limit. After an error a part may be set, or nothing: kubelet may not have made the
// group of the pods. The caller has the lock.
func (l *Limiter) limit(d Device, to limited) error {
	h, err := findHierarchy(l.opts)
	if err == nil {
		err = h.set(d, to.limits)
	}
	to.failed = err != nil
	l.limited[d] = to
	return err
}

// lift takes a limit away, if there is one. After an error some groups may have it still. The
// caller has the lock.
func (l *Limiter) lift(d Device) error {
	has, ok := l.limited[d]
	if !ok {
		return nil
	}
	h, err := findHierarchy(l.opts)
	if err == nil {
		err = h.set(d, volume.IOLimits{})
	}
	// Without the device its limits are gone, too (block/blk-cgroup.c, blkg_destroy_all).
	if err != nil && !errors.Is(err, unix.ENODEV) {
		l.limited[d] = limited{volume: has.volume, failed: true}
		return fmt.Errorf("lift the limits of device %s: %w", d, err)
	}
	delete(l.limited, d)
	return nil
}

// Recall finds the limits that an earlier process has set, and lifts those of devices that nobody
// uses. The others wait for the next Set of their devices. Call it once, before the first Set.
func (l *Limiter) Recall(isUnused func(Device) bool) error {
	if !l.IsOn() {
		return nil
	}
	h, err := findHierarchy(l.opts)
	if err != nil {
		return err
	}
	found, err := h.limited()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range found {
		l.limited[d] = limited{}
		if isUnused(d) {
			err = errors.Join(err, l.lift(d))
		}
	}
	return err
}

// Refresh sets the limits in groups that have come since they were set, and those that somebody has
// taken away: on cgroup v1 each container is a new group. What failed to be set or to be lifted is
// tried again. It costs nothing where nothing is limited.
func (l *Limiter) Refresh() error {
	if !l.IsOn() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := map[Device]limited{}
	var errs []error
	for d, has := range l.limited {
		switch {
		case !has.limits.IsNone():
			wanted[d] = has
		case has.failed:
			errs = append(errs, l.lift(d))
		}
	}
	return errors.Join(append(errs, l.refresh(wanted))...)
}

// refresh is Refresh for devices that are to have limits. The caller has the lock.
func (l *Limiter) refresh(wanted map[Device]limited) error {
	if len(wanted) == 0 {
		return nil
	}
	h, err := findHierarchy(l.opts)
	if err != nil {
		return err
	}
	failed, err := h.refresh(wanted)
	for d, has := range wanted {
		has.failed = slices.Contains(failed, d)
		l.limited[d] = has
	}
	return err
}
