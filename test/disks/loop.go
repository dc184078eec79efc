package disks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	loopControl = "/dev/loop-control"
	// loopTries bounds the race for a free device with the other test processes of the machine.
	loopTries = 100
)

// errNoLoop says that this machine or container gives us no loop devices.
var errNoLoop = errors.New("no loop devices")

// attach puts the image on a free loop device and returns the device, open. With LO_FLAGS_AUTOCLEAR
// the kernel detaches it at its last close or unmount, so that not even a killed process leaks it.
func attach(image string) (*os.File, error) {
	img, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoLoop, err)
	}
	defer control.Close()

	for range loopTries {
		device, err := attachFree(control, img)
		if !errors.Is(err, unix.EBUSY) {
			return device, err
		}
	}
	return nil, fmt.Errorf("attach %s: no loop device was left free in %d tries", image, loopTries)
}

// attachFree tries one device; EBUSY says that another process was first.
func attachFree(control, img *os.File) (*os.File, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("%s: LOOP_CTL_GET_FREE: %w", loopControl, err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{
		Fd:   uint32(img.Fd()), //nolint:gosec // a descriptor is a small number
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
	}
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: LOOP_CONFIGURE: %w", device.Name(), err), device.Close())
	}
	return device, nil
}

// backingFile is the image behind a mount's source, empty when that is no loop device.
func backingFile(source string) string {
	name, ok := strings.CutPrefix(source, "/dev/loop")
	if !ok {
		return ""
	}
	path, err := os.ReadFile(filepath.Join("/sys/block", "loop"+name, "loop/backing_file"))
	if err != nil {
		return "" // detached: nothing is mounted from it
	}
	return strings.TrimSuffix(string(path), "\n")
}
