// Package pod does part of a test with the rights of a pod.
package pod

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Run runs something as root without any capability: that is as much as a container can be that is not privileged. What it starts has
// the test's rights again.
func Run(t testing.TB, do func() error) {
	t.Helper()
	if err := <-Start(do); err != nil {
		t.Fatal(err)
	}
}

// Start is Run in the background; what it returns has to be received.
func Start(do func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := dropCapabilities()
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return done
}

// dropCapabilities takes them from the thread.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData // 64 capabilities
	return unix.Capset(&header, &none[0])
}
