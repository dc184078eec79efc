// Package pod does part of a test with the rights of a pod.
package pod

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Run runs something as root without any capability: that is as much as a container can be that is
// not privileged. What it starts has the test's rights again.
func Run(t testing.TB, do func() error) {
	t.Helper()
	if err := <-Start(do); err != nil {
		t.Fatal(err)
	}
}

// Start is Run in the background; what it returns has to be received.
func Start(do func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- withoutCapabilities(do) }()
	return done
}

// withoutCapabilities takes them from the thread, and gives them back: a thread that ended with the
// goroutine would take along the processes that another one has started from it (prctl(2),
// PR_SET_PDEATHSIG).
func withoutCapabilities(do func() error) error {
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData // 64 capabilities
	if err := unix.Capget(&header, &had[0]); err != nil {
		return err
	}
	has := had
	for i := range has {
		has[i].Effective = 0
	}
	if err := unix.Capset(&header, &has[0]); err != nil {
		return err
	}
	err := do()
	if back := unix.Capset(&header, &had[0]); back != nil { // nobody else gets this thread
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}
