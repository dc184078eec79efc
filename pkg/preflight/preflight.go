// Package preflight finds out whether what the driver mounts can reach the node's pods: whether the
// process may mount, and whether kubelet's directory is the one that kubelet has.
package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Checker checks again and again, and does little while nothing has changed. Use it from one
// goroutine at a time.
type Checker struct {
	// KubeletDir is kubelet's directory as the driver was told.
	KubeletDir string

	seen   []place // of the last check
	faults []error
}

// Check returns what keeps every volume of the node from its pods, each with a remedy and a
// volume.Reason. While there was no fault and the directories are the same, that costs a few system
// calls; else the mount table is read. Errors: ErrNode.
func (c *Checker) Check() []error {
	places := placesOf(c.KubeletDir)
	if c.seen == nil || len(c.faults) > 0 || !slices.Equal(places, c.seen) {
		c.seen, c.faults = places, Check(c.KubeletDir)
	}
	return c.faults
}

// Check is Checker.Check for one time.
func Check(kubeletDir string) []error {
	var faults []error
	if !mount.MayMount() {
		faults = append(faults, volume.Because(volume.ReasonMayNotMount, fmt.Errorf(
			"%w: the driver may not mount: it is user %d, or has no CAP_SYS_ADMIN. Run it as root; a "+
				"container has to be privileged", volume.ErrNode, os.Geteuid())))
	}
	d, err := open(kubeletDir)
	if err != nil {
		return append(faults, absent(kubeletDir, err))
	}
	defer d.Close()
	faults = append(faults, checkLinks(kubeletDir)...)
	if mount.HasOwnNamespace() {
		faults = append(faults, checkPropagation(kubeletDir)...)
	}
	return faults
}

func absent(kubeletDir string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		err = fmt.Errorf("kubelet's directory %s is not there: no pod can get a volume. Give "+
			"--kubelet-dir what kubelet has as --root-dir; a container has to have that directory "+
			"mounted at the same path", kubeletDir)
	}
	return volume.Because(volume.ReasonKubeletAbsent, fmt.Errorf("%w: %w", volume.ErrNode, err))
}

// wayDown are the directories on the way from kubelet's directory to target and staging paths
// (Kubernetes pkg/volume/csi/csi_mounter.go and csi_plugin.go).
func wayDown() []string {
	return []string{"pods", "plugins", "plugins/kubernetes.io", "plugins/kubernetes.io/csi"}
}

// checkLinks finds symbolic links that no target path may lead through (mount.Target).
func checkLinks(kubeletDir string) (faults []error) {
	for _, dir := range wayDown() {
		name := filepath.Join(kubeletDir, dir)
		to, err := os.Readlink(name)
		if err != nil {
			continue // no link
		}
		faults = append(faults, volume.Because(volume.ReasonKubeletLink, fmt.Errorf(
			"%w: %s is a symbolic link to %s, and the driver mounts nothing behind a link in kubelet's "+
				"directory. Replace the link with a directory, and mount the other one there: "+
				"mount --bind; or give kubelet another --root-dir",
			volume.ErrNode, name, to)))
	}
	return faults
}

// checkPropagation finds mounts that keep to this mount namespace what is mounted below them
// (mount_namespaces(7), MS_PRIVATE and MS_SLAVE).
func checkPropagation(kubeletDir string) (faults []error) {
	var private []int
	for _, dir := range []string{"pods", "plugins"} {
		m, err := mountOf(filepath.Join(kubeletDir, dir))
		if errors.Is(err, fs.ErrNotExist) { // kubelet makes it
			m, err = mountOf(kubeletDir)
		}
		switch {
		case err != nil:
			faults = append(faults, volume.Because(volume.ReasonKubeletAbsent,
				fmt.Errorf("%w: %w", volume.ErrNode, err)))
		case !m.Shared && !slices.Contains(private, m.ID):
			private = append(private, m.ID)
			faults = append(faults, volume.Because(volume.ReasonKubeletPrivate, fmt.Errorf(
				"%w: the mount at %s is not shared with the node: volumes would be mounted where no pod "+
					"sees them. A container has to mount kubelet's directory with Bidirectional mount "+
					"propagation; on the node the mount has to be shared: mount --make-rshared %s",
				volume.ErrNode, m.Point, m.Point)))
		}
	}
	return faults
}

// mountOf returns the mount through which a directory is seen.
func mountOf(name string) (mount.Mount, error) {
	d, err := open(name)
	if err != nil {
		return mount.Mount{}, err
	}
	defer d.Close()
	mounts, err := mount.Table()
	if err != nil {
		return mount.Mount{}, err
	}
	return mount.Of(mounts, d)
}

func open(name string) (*os.File, error) {
	return os.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// place is what stands at a path, and through which mount it is seen. The zero place is of what
// cannot be looked at.
type place struct {
	file    openat.Identity
	mountID uint64
}

func placesOf(kubeletDir string) []place {
	paths := append([]string{""}, wayDown()...)
	places := make([]place, 0, len(paths))
	for i, dir := range paths {
		flags := unix.AT_STATX_DONT_SYNC
		if i > 0 { // kubelet's directory itself may be a link
			flags |= unix.AT_SYMLINK_NOFOLLOW
		}
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, filepath.Join(kubeletDir, dir), flags,
			unix.STATX_INO|unix.STATX_MNT_ID, &st)
		if err != nil {
			st = unix.Statx_t{}
		}
		places = append(places, place{
			file:    openat.Identity{Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino},
			mountID: st.Mnt_id,
		})
	}
	return places
}

// OtherName returns the path that kubelet's directory has in its filesystem, if that is not the end
// of the path that the driver has for it, nor the other way round: kubelet may use that name. It
// returns "" if there is nothing to say. It is a hint and no fault, because a directory may be
// mounted elsewhere on purpose.
func OtherName(kubeletDir string) string {
	m, err := mountOf(kubeletDir)
	if err != nil || m.Point != kubeletDir || m.Root == "/" ||
		strings.HasSuffix(m.Point, m.Root) || strings.HasSuffix(m.Root, m.Point) {
		return ""
	}
	return m.Root
}
