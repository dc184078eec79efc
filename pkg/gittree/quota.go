package gittree

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// underQuota runs f without CAP_SYS_RESOURCE, which the driver has where it is privileged: ext4
// ignores the limits of a process with it (fs/quota/dquot.c, ignore_hardlimit). f starts no
// goroutine that writes, because a thread has capabilities of its own (capabilities(7)).
func underQuota(f func() error) error {
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("capget", err)
	}
	has := had
	has[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	if err := unix.Capset(&header, &has[0]); err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("capset", err)
	}
	err := f()
	if restored := unix.Capset(&header, &had[0]); restored != nil {
		// The thread stays locked, so it ends with its goroutine, and no other one gets it.
		return errors.Join(err, os.NewSyscallError("capset", restored))
	}
	runtime.UnlockOSThread()
	return err
}
