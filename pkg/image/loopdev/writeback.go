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

// UnthrottleWriteback removes the kernel's limit on writeback from the page cache to the device: a
// few requests at a time (block/blk-wbt.c, RWB_DEF_DEPTH). That limit is made for a disk. A loop
// device needs more requests in flight, because each one also waits for a kernel thread. The disk's
// own limits still hold. /dev/loopN keeps this setting until the next boot.
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
