package loopdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// unthrottled is what turns the throttle off (Documentation/ABI/stable/sysfs-block, wbt_lat_usec).
const unthrottled = "0"

// UnthrottleWriteback takes off the limit that the kernel sets to the writing back of a page cache
// to the device: a few requests at a time (block/blk-wbt.c, RWB_DEF_DEPTH), which is for a disk and
// not for a file, whose every request takes a thread's time besides. What is written through the
// device is limited as direct I/O to the file is. The device's number keeps it until the machine is
// started again.
func (d *Device) UnthrottleWriteback() error {
	path := filepath.Join(sysfs, fmt.Sprintf("loop%d", d.number), "queue/wbt_lat_usec")
	latency, err := os.ReadFile(path)
	// a kernel, or a queue, without this throttle
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	// The kernel stops the queue for each change, for some 20 ms.
	if err != nil || strings.TrimSpace(string(latency)) == unthrottled {
		return err
	}
	return os.WriteFile(path, []byte(unthrottled), 0)
}
