package mount

import (
	"errors"

	"golang.org/x/sys/unix"
)

// CheckKernel refuses a kernel that cannot mount with all attributes at once: before Linux 5.12,
// mount_setattr(2) is missing. Mounting first and restricting then is no substitute: for a moment,
// and in other mount namespaces for good, pods would see a volume without nosuid, nodev and ro.
func CheckKernel() error {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	switch {
	case errors.Is(err, unix.ENOSYS):
		return errors.New("this kernel has no mount_setattr(2): Linux 5.12 or newer is needed")
	case errors.Is(err, unix.EPERM) && MayMount():
		return errors.New("a seccomp profile forbids mount_setattr(2): run the container as privileged, " +
			"or with a profile that allows what CAP_SYS_ADMIN allows")
	default: // EBADF; or EPERM, because the process may not mount, which the log says elsewhere
		return nil
	}
}

// MayMount reports whether the process has CAP_SYS_ADMIN, which mount(2) and open_tree(2) need
// (capabilities(7)).
func MayMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}
