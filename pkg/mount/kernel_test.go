package mount

import (
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

func TestKernelThatCannotRestrictAMountIsRefused(t *testing.T) {
	disks.RequireRoot(t)
	if err := CheckKernel(); err != nil {
		t.Fatalf("this kernel: %v", err)
	}
	for errno, want := range map[unix.Errno]string{
		unix.ENOSYS: "Linux 5.12 or newer",
		unix.EPERM:  "seccomp",
	} {
		checked := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
			if err := denyMountSetattr(errno); err != nil {
				checked <- err
				return
			}
			checked <- CheckKernel()
		}()
		if err := <-checked; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("where mount_setattr(2) is %v: %v, want %q", errno, err, want)
		}
	}
}

// denyMountSetattr has mount_setattr(2) fail on this thread (seccomp(2)).
func denyMountSetattr(errno unix.Errno) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_MOUNT_SETATTR},
		//nolint:gosec // an error number is small
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	//nolint:gosec // four instructions
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	pointer := uintptr(unsafe.Pointer(&program)) //nolint:gosec // for the kernel
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, pointer, 0, 0)
}
