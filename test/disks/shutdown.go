package disks

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// xfsGoingDown is XFS_IOC_GOINGDOWN of xfs_fs.h: _IOR('X', 125, __u32).
	xfsGoingDown = 0x8004587d
	// noLogFlush is XFS_FSOP_GOING_FLAGS_NOLOGFLUSH: as if the disk had been torn out.
	noLogFlush = 2
)

// Shutdown makes an XFS disk die: whatever is asked of its files says EIO from then on.
func (d Disk) Shutdown(t testing.TB) {
	t.Helper()
	f, err := os.Open(d.Dir)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), xfsGoingDown, noLogFlush)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
