package copytree

import (
	"errors"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/disks"
)

// If a pod takes its lease again and again, the copy must not wait for ever.
func TestLeaseThatIsNotGivenBackFailsTheCopy(t *testing.T) {
	w := newFixture(t, disks.Ext4)
	w.write("leased", "content")
	f, err := os.OpenFile(w.in("leased"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	signal.Ignore(unix.SIGIO)
	defer signal.Reset(unix.SIGIO)
	fd := f.Fd()
	_, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_WRLCK)
	must(t, err)
	path, err := unix.Open(w.in("leased"), unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(path)
	c, done, err := newCopier(t.Context(), -1, Options{Workers: 1, Progress: &Progress{}})
	must(t, err)
	defer done()
	c.leasePatience = func() (time.Duration, error) { return 3 * leaseInterval, nil }
	src, err := c.openToRead(descriptor(path))
	if !errors.Is(err, unix.EAGAIN) || !strings.Contains(err.Error(), "lease") {
		t.Errorf("%d, %v, want EAGAIN and the reason", src, err)
	}
	_, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
	must(t, err)
	src, err = c.openToRead(descriptor(path))
	must(t, err)
	src.close()
}

func TestPatienceWithLeasesIsMoreThanTheKernels(t *testing.T) {
	content, err := os.ReadFile("/proc/sys/fs/lease-break-time")
	must(t, err)
	kernels, err := time.ParseDuration(strings.TrimSpace(string(content)) + "s")
	must(t, err)
	if got, err := leasePatience(); err != nil || got != 2*kernels {
		t.Errorf("%s, %v, want twice %s", got, err, kernels)
	}
}
