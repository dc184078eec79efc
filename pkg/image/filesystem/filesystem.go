// Package filesystem makes, recognises, checks, mounts, grows and freezes the filesystem on a block
// device. Programs are run through k8s.io/mount-utils, as in kubelet. The mount is a system call on
// a descriptor.
package filesystem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Make makes a filesystem on a device and mounts it at a directory, open with O_PATH. The caller
// has made sure that the device is all zeroes. Errors: ErrNode when a program is missing.
func Make(device string, at *os.File, spec volume.Spec) error {
	if err := require("blkid", "mkfs."+string(spec.FSType)); err != nil {
		return err
	}
	return run(device, at, spec, utilexec.New())
}

// UnexpectedError says that another filesystem than the expected one is recognised on a device, or
// none. It wraps volume.ErrCorrupt.
type UnexpectedError struct {
	Device string
	Want   volume.FSType
	Found  string // empty for none
}

// Error implements error.
func (e *UnexpectedError) Error() string {
	return fmt.Sprintf("%v: it has been given %s, and %q is recognised on %s: it is not formatted again; "+
		"look at it with fsck.%s, or restore a snapshot",
		volume.ErrCorrupt, e.Want, e.Found, e.Device, e.Want)
}

// Unwrap makes it ErrCorrupt.
func (*UnexpectedError) Unwrap() error { return volume.ErrCorrupt }

// Mount checks a filesystem, repairs what fsck can repair without losing anything, and mounts the
// filesystem at a directory, open with O_PATH. It never makes a filesystem: a device on which none
// is recognised is damaged, not empty. Errors: ErrCorrupt, also as *UnexpectedError; ErrNode when a
// program is missing.
func Mount(device string, at *os.File, spec volume.Spec) error {
	if err := require("blkid", "fsck"); err != nil {
		return err
	}
	found, err := (&mount.SafeFormatAndMount{Exec: utilexec.New()}).GetDiskFormat(device)
	if err != nil {
		return fmt.Errorf("blkid %s: %w", device, err)
	}
	if found != string(spec.FSType) {
		return &UnexpectedError{Device: device, Want: spec.FSType, Found: found}
	}
	return run(device, at, spec, neverFormats{utilexec.New()})
}

// MountAgain mounts a filesystem at a second directory. It does not check the filesystem: fsck must
// not read one that is mounted.
func MountAgain(device string, at *os.File, spec volume.Spec) error {
	return mounter{at: at, spec: spec}.MountSensitive(device, "", string(spec.FSType), nil, nil)
}

func run(device string, at *os.File, spec volume.Spec, exec utilexec.Interface) error {
	m := mount.NewSafeFormatAndMount(mounter{at: at, spec: spec}, exec)
	err := m.FormatAndMountSensitiveWithFormatOptions(device, at.Name(), string(spec.FSType), nil, nil,
		formatOptions(spec.FSType))
	var failed mount.MountError
	if errors.As(err, &failed) && failed.Type == mount.HasFilesystemErrors {
		return fmt.Errorf("%w: %w: repair it with fsck.%s, or restore a snapshot", volume.ErrCorrupt, err,
			spec.FSType)
	}
	return err
}

// formatOptions are further arguments of mkfs. The device is empty, so mkfs need not clear it, and
// must not discard it: that would give back preallocated blocks.
func formatOptions(fsType volume.FSType) []string {
	switch fsType {
	case volume.Ext4:
		// the block size of the device
		return []string{"-q", "-b", "4096", "-E", "nodiscard,assume_storage_prezeroed=1"}
	case volume.XFS, volume.Btrfs:
		return []string{"-q", "-K"}
	default:
		return nil
	}
}

// neverFormats runs no mkfs. mount-utils would format whatever blkid(8) does not recognise.
type neverFormats struct{ utilexec.Interface }

var errWouldFormat = errors.New("a filesystem that has been made is never made again")

func (e neverFormats) Command(name string, args ...string) utilexec.Cmd {
	if name == "blkid" || name == "fsck" {
		return e.Interface.Command(name, args...)
	}
	return refused{}
}

// refused is a program that is not run.
type refused struct{ utilexec.Cmd }

func (refused) CombinedOutput() ([]byte, error) { return nil, errWouldFormat }

// mounter mounts at a descriptor instead of a path. It has the one method of mount-utils' interface
// that SafeFormatAndMount calls.
type mounter struct {
	mount.Interface
	at   *os.File
	spec volume.Spec
}

// MountSensitive implements mount.Interface. This mount is nosuid and nodev for all pods. Further
// restrictions come with the bind mount at each target.
func (m mounter) MountSensitive(source, _, fsType string, _, _ []string) error {
	err := unix.Mount(source, openat.Path(m.at), fsType,
		unix.MS_NOSUID|unix.MS_NODEV, mountData(m.spec))
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: the node's kernel has no %s: %w", volume.ErrNode, fsType, err)
	}
	return os.NewSyscallError("mount", err)
}

// mountData are the filesystem's own options.
func mountData(spec volume.Spec) string {
	switch {
	case spec.FSType == volume.XFS:
		// A copy has the UUID of its source, and XFS refuses to mount a second filesystem of one UUID.
		// The driver distinguishes images by their files.
		return "nouuid"
	case spec.FSType == volume.Btrfs && spec.Allocation == volume.Preallocated:
		return "nodiscard" // btrfs discards by default, which would give back preallocated blocks
	default:
		return ""
	}
}

// Grow makes a mounted filesystem as large as its device. If it has that size already, nothing
// happens. The path is a mount point of the filesystem. Errors: ErrNode when a program is missing,
// or the capability to grow ext4.
func Grow(device, path string, fsType volume.FSType) error {
	if err := require("blkid", growProgram(fsType)); err != nil {
		return err
	}
	grown, err := mount.NewResizeFs(utilexec.New()).Resize(device, path)
	if err == nil && !grown { // mount-utils does nothing then
		err = fmt.Errorf("no filesystem is recognised on %s", device)
	}
	// fs/ext4/resize.c, ext4_resize_begin
	if err != nil && fsType == volume.Ext4 && !hasCapability(unix.CAP_SYS_RESOURCE) {
		return fmt.Errorf(
			"%w: ext4 grows only for a process with CAP_SYS_RESOURCE, which this one has not; a privileged container has it: %w",
			volume.ErrNode,
			err,
		)
	}
	return err
}

// hasCapability says whether this process has a capability below 32 (capabilities(7)).
func hasCapability(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[0].Effective&(1<<capability) != 0
}

func growProgram(fsType volume.FSType) string {
	switch fsType {
	case volume.XFS:
		return "xfs_growfs"
	case volume.Btrfs:
		return "btrfs"
	default:
		return "resize2fs"
	}
}

// require checks that programs are there, before anything is changed. Errors: ErrNode.
func require(programs ...string) error {
	for _, name := range programs {
		if _, err := utilexec.New().LookPath(name); err != nil {
			return fmt.Errorf(
				"%w: program %s is missing where the driver runs: use the driver's own container image, "+
					"or install e2fsprogs, xfsprogs, btrfs-progs and util-linux: %w",
				volume.ErrNode,
				name,
				err,
			)
		}
	}
	return nil
}
