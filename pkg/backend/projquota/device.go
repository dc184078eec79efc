package projquota

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const deviceDir = "/dev"

// findQuota finds out how to set the quotas of a filesystem; false if it enforces none.
func findQuota(root *os.File) (quota, bool, error) {
	q := quota{root: root}
	enforced, err := q.enforced()
	// EPERM comes from an old seccomp profile, which refuses system calls that it does not know. (A
	// process that may set quotas gets no other EPERM.)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return findByDevice(root, deviceDir)
	}
	return q, enforced, err
}

// findByDevice is findQuota for kernels before Linux 5.14, which need the filesystem's block
// device. It looks for the device only if the filesystem is mounted with project quotas.
func findByDevice(root *os.File, devices string) (quota, bool, error) {
	wanted, err := mountedWithQuota(root)
	if err != nil || !wanted {
		return quota{}, false, err
	}
	device, err := openDevice(root, devices)
	if err != nil {
		return quota{}, false, fmt.Errorf(
			"%w: before Linux 5.14 quotas are set by the filesystem's block device: %w",
			volume.ErrUnavailable, err)
	}
	q := quota{root: root, device: device}
	enforced, err := q.enforced()
	return q, enforced, err
}

// mountedWithQuota reads the options of the filesystem from the mount table.
func mountedWithQuota(root *os.File) (bool, error) {
	mounts, err := mount.Table()
	if err != nil {
		return false, err
	}
	m, err := mount.Of(mounts, root)
	return slices.ContainsFunc(strings.Split(m.FSOptions, ","), func(option string) bool {
		return option == "prjquota" || option == "pquota"
	}), err
}

// openDevice opens the block device of a filesystem with O_PATH. A container has no node of a
// device that appeared after the container's start: then openDevice makes a node, opens it and
// removes it again. The garbage collector closes the file.
func openDevice(root *os.File, devices string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: root.Name(), Err: err}
	}
	if name, err := deviceName(st.Dev); err == nil {
		if f, err := openNode(filepath.Join(devices, name), st.Dev); err == nil {
			return f, nil
		}
	}
	dir, err := os.MkdirTemp(devices, "csi-hostpath-") // mode 0700: only root can reach the node
	if err != nil {
		return nil, err
	}
	f, err := makeNode(filepath.Join(dir, "device"), st.Dev)
	return f, errors.Join(err, os.Remove(dir))
}

// deviceName returns the kernel's name of a block device, which udev gives its node.
func deviceName(device uint64) (string, error) {
	f, err := os.Open(
		fmt.Sprintf("/sys/dev/block/%d:%d/uevent", unix.Major(device), unix.Minor(device)),
	)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "DEVNAME="); ok && filepath.IsLocal(name) {
			return name, nil
		}
	}
	return "", errors.Join(fmt.Errorf("%s has no DEVNAME", f.Name()), lines.Err())
}

// openNode opens the node of a device, and verifies that it is of that device.
func openNode(path string, device uint64) (*os.File, error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != device) {
		err = fmt.Errorf("%s is not block device %d:%d", path, unix.Major(device), unix.Minor(device))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func makeNode(path string, device uint64) (*os.File, error) {
	number := int(device) //nolint:gosec // as the kernel has it
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, number); err != nil {
		return nil, &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	f, err := openNode(path, device)
	return f, errors.Join(err, os.Remove(path))
}
