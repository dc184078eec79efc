package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"

	"github.com/csi-hostpath/csi-hostpath/test/cluster/internal/machine"
)

// makeMounts turns the copy of the host's mounts into the machine's own. The
// last step shares them within the machine, so that bidirectional mount
// propagation between its containers and the kubelet works.
func makeMounts(spec machine.Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the host's mounts private: %w", err)
	}
	if err := makeBinds(spec.Binds); err != nil {
		return err
	}
	for _, target := range spec.Tmpfs {
		if err := unix.Mount(
			"tmpfs",
			target,
			"tmpfs",
			unix.MS_NOSUID|unix.MS_NODEV,
			"mode=0755",
		); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", target, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc of the new PID namespace: %w", err)
	}
	if err := maskBootID(); err != nil {
		return err
	}
	if err := mountWholeProc(); err != nil {
		return err
	}
	if spec.Disk != nil {
		if err := mountDisk(*spec.Disk); err != nil {
			return err
		}
	}
	if spec.ReadOnlyRoot {
		if err := makeReadOnly("/", 0); err != nil {
			return err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the machine's mounts: %w", err)
	}
	return nil
}

// makeBinds opens all sources before it mounts any: one target may hide the
// source of another.
func makeBinds(binds []machine.Bind) error {
	trees := make([]int, len(binds))
	for i, bind := range binds {
		fd, err := unix.OpenTree(unix.AT_FDCWD, bind.Source,
			unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("open %s to bind it on %s: %w", bind.Source, bind.Target, err)
		}
		trees[i] = fd
	}
	for i, bind := range binds {
		if err := dropMountsBelow(bind.Target); err != nil {
			return err
		}
		err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, bind.Target, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if err != nil {
			return fmt.Errorf("bind %s on %s: %w", bind.Source, bind.Target, err)
		}
		if err := unix.Close(trees[i]); err != nil {
			return err
		}
		if bind.ReadOnly {
			if err := makeReadOnly(bind.Target, unix.AT_RECURSIVE); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropMountsBelow lets go of the host's mounts that a bind is about to hide: a
// copy that nobody can see would keep the host from freeing their devices.
func dropMountsBelow(target string) error {
	mounts, err := mountutils.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read the mount table: %w", err)
	}
	for _, mount := range slices.Backward(mounts) {
		if !strings.HasPrefix(mount.MountPoint, target+"/") {
			continue
		}
		err := unix.Unmount(mount.MountPoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		// One that went along with the mount it was on is gone already.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("let go of the host's mount on %s: %w", mount.MountPoint, err)
		}
	}
	return nil
}

// makeReadOnly takes unix.AT_RECURSIVE, or 0 for the target's own mount alone.
func makeReadOnly(target string, flags uint) error {
	attributes := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, flags, attributes); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	return nil
}

// maskBootID gives each start of the machine a boot ID of its own: by it the
// kubelet tells a reboot from its own restart.
func maskBootID() error {
	const kernel, own = "/proc/sys/kernel/random/boot_id", "/run/boot_id"
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	if err := os.WriteFile(own, id, 0o444); err != nil {
		return err
	}
	if err := unix.Mount(own, kernel, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", own, kernel, err)
	}
	return nil
}

// mountWholeProc mounts a second /proc, without the mount of maskBootID. The kernel lets a user
// namespace mount one only if its mount namespace has one of which nothing is covered
// (fs/namespace.c, mount_too_revealing): without it no pod with hostUsers: false starts.
func mountWholeProc() error {
	const target = "/run/proc"
	if err := os.MkdirAll(target, 0o555); err != nil {
		return err
	}
	if err := unix.Mount("proc", target, "proc", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// mountDisk leaves the loop device to mount(8), which sets it to detach itself
// with the last mount: nothing has to clean up after a killed machine.
func mountDisk(disk machine.Disk) error {
	if err := os.MkdirAll(disk.Target, 0o755); err != nil {
		return err
	}
	output, err := exec.Command("mount", "-o", "loop", disk.Image, disk.Target).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount the disk %s on %s: %w: %s", disk.Image, disk.Target, err, output)
	}
	return nil
}
