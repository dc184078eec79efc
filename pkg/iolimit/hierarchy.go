package iolimit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// hierarchy is one of the two kinds of control groups.
type hierarchy interface {
	// set limits a device; no limits take the limit away.
	set(d Device, limits volume.IOLimits) error
	// limited are the loop devices that have limits.
	limited() ([]Device, error)
	// refresh sets what is missing, and returns the devices for which that failed somewhere.
	refresh(wanted map[Device]limited) (failed []Device, err error)
}

// findHierarchy finds the group of all pods. Kubelet may make it after the driver has started, and
// again after its cgroup driver was changed, so nothing is remembered. Errors: ErrPrecondition.
func findHierarchy(opts Options) (hierarchy, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(opts.Cgroups, &fs); err != nil {
		return nil, fmt.Errorf("%w: ioLimits.cgroups is %s: %w: mount the node's /sys/fs/cgroup there",
			volume.ErrPrecondition, opts.Cgroups, err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return findV2(opts)
	}
	return findV1(opts)
}

func findV2(opts Options) (hierarchy, error) {
	group, err := findPods(opts.Cgroups, opts.PodsGroup)
	if err != nil {
		return nil, err
	}
	h := v2{filepath.Join(group, "io.max")}
	if _, err := os.Stat(h.file); err != nil {
		return nil, fmt.Errorf("%w: %s: %w: the controller io is not enabled in the group of the pods: "+
			"write +io to cgroup.subtree_control of each group above it",
			volume.ErrPrecondition, h.file, err)
	}
	return h, nil
}

func findV1(opts Options) (hierarchy, error) {
	root := filepath.Join(opts.Cgroups, "blkio")
	if _, err := os.Stat(filepath.Join(root, v1Files[0])); err != nil {
		return nil, fmt.Errorf("%w: %s is neither cgroup v2 nor has the controller blkio of v1, with "+
			"blkio.throttle: %w", volume.ErrPrecondition, opts.Cgroups, err)
	}
	pods, err := findPods(root, opts.PodsGroup)
	if err != nil {
		return nil, err
	}
	return v1{root: root, pods: pods}, nil
}

// findPods is the directory of the group that has all pods.
func findPods(root, name string) (string, error) {
	names := []string{name}
	if name == "" {
		names = []string{"kubepods.slice", "kubepods"} // kubelet's cgroup drivers systemd and cgroupfs
	}
	for _, name := range names {
		group := filepath.Join(root, name)
		if info, err := os.Stat(group); err == nil && info.IsDir() {
			return group, nil
		}
	}
	return "", fmt.Errorf("%w: %s has no group %s: if kubelet has a --cgroup-root, set ioLimits.podsGroup "+
		"to the group that it has made for pods", volume.ErrPrecondition, root, strings.Join(names, ", "))
}

// write writes one line to a file of a group. The kernel takes a setting in one write(2).
func write(file, line string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}

// loopDevices are the loop devices at the beginnings of lines.
func loopDevices(content []byte) (found []Device) {
	for line := range bytes.Lines(content) {
		name, _, _ := strings.Cut(string(line), " ")
		number, ok := strings.CutPrefix(name, "7:")
		if minor, err := strconv.ParseUint(number, 10, 20); ok && err == nil {
			found = append(found, LoopDevice(int(minor)))
		}
	}
	return found
}
