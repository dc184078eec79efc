package iolimit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// v1 is blkio.throttle of cgroup v1. There a limit holds for the processes of one group, and not
// for the groups below it (block/blk-throttle.c, throtl_pd_init, "the broken flat hierarchy"). So
// every group below the pods' has it, and each container has it for itself. What was written to the
// page cache is written to the device by the kernel, in the group at the root: the device is the
// volume's alone, so a limit there is its limit, too.
type v1 struct{ root, pods string }

// v1Files are in the order of v1Values.
var v1Files = []string{
	"blkio.throttle.read_bps_device",
	"blkio.throttle.write_bps_device",
	"blkio.throttle.read_iops_device",
	"blkio.throttle.write_iops_device",
}

// v1Values are the values for a device; 0 takes a limit away.
func v1Values(l volume.IOLimits) []uint64 {
	return []uint64{l.ReadBytesPerSecond, l.WriteBytesPerSecond, l.ReadIOPS, l.WriteIOPS}
}

func (h v1) set(d Device, limits volume.IOLimits) error {
	return h.eachGroup(func(group string) error { return setV1(group, d, limits) })
}

func setV1(group string, d Device, limits volume.IOLimits) error {
	var errs []error
	for i, value := range v1Values(limits) {
		errs = append(errs, write(filepath.Join(group, v1Files[i]), fmt.Sprintf("%s %d", d, value)))
	}
	return errors.Join(errs...)
}

// eachGroup calls do for the group at the root, and for each group of pods. A group that goes
// meanwhile is no error.
func (h v1) eachGroup(do func(group string) error) error {
	errs := []error{do(h.root)}
	walked := filepath.WalkDir(h.pods, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = do(path)
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) && isGone(path) {
			return nil
		}
		if err != nil {
			errs = append(errs, err)
		}
		return nil
	})
	return errors.Join(append(errs, walked)...)
}

// isGone says whether a group was removed. Writing to a file of it that is still open is ENODEV, as
// for a device that is gone.
func isGone(group string) bool {
	_, err := os.Stat(group)
	return errors.Is(err, os.ErrNotExist)
}

func (h v1) limited() (found []Device, err error) {
	for _, name := range v1Files {
		content, err := os.ReadFile(filepath.Join(h.root, name))
		if err != nil {
			return nil, err
		}
		found = append(found, loopDevices(content)...)
	}
	return found, nil
}

// refresh reads one file of each group, the one of the first limit of the first device, and writes
// to those that lack it: a group has all limits or, while it is new, none. A device whose limits
// could not be written to some group gets them in every group again.
func (h v1) refresh(wanted map[Device]limited) (failed []Device, err error) {
	devices := sortedDevices(wanted)
	file, line := firstV1(devices[0], wanted[devices[0]].limits)
	err = h.eachGroup(func(group string) error {
		content, err := os.ReadFile(filepath.Join(group, file))
		if err != nil {
			return err
		}
		isNew := !hasLine(string(content), line)
		var errs []error
		for _, d := range devices {
			if !isNew && !wanted[d].failed {
				continue
			}
			if err := setV1(group, d, wanted[d].limits); err != nil {
				failed, errs = append(failed, d), append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	return failed, err
}

// firstV1 is the file and the line in it of the first limit.
func firstV1(d Device, limits volume.IOLimits) (file, line string) {
	for i, value := range v1Values(limits) {
		if value != 0 {
			return v1Files[i], d.String() + " " + strconv.FormatUint(value, 10)
		}
	}
	return v1Files[0], ""
}

func hasLine(content, wanted string) bool {
	for line := range strings.Lines(content) {
		if strings.TrimSpace(line) == wanted {
			return true
		}
	}
	return false
}
