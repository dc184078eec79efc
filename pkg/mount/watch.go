package mount

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchPause is how long Watch ignores further changes after it has reported one: a node that
// starts many pods mounts all the time.
const watchPause = 50 * time.Millisecond

// Watch calls changed after each change of the mount table of this process's mount namespace, and
// whenever nothing has changed for the interval, until the context ends. It holds a thread. Errors:
// those of poll(2) on /proc/self/mountinfo (proc_pid_mountinfo(5)).
func Watch(ctx context.Context, interval time.Duration, changed func()) error {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer table.Close()
	ended, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ended.Close()
	stop := context.AfterFunc(ctx, func() { end.Close() })
	defer func() {
		if stop() {
			end.Close()
		}
	}()
	fds := []unix.PollFd{
		{Fd: int32(table.Fd()), Events: unix.POLLPRI}, //nolint:gosec // a descriptor is small
		{Fd: int32(ended.Fd()), Events: unix.POLLIN},  //nolint:gosec // as above
	}
	for ctx.Err() == nil {
		n, err := unix.Poll(fds, int(interval.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		changed()
		if n > 0 {
			sleep(ctx, watchPause)
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
