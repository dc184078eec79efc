package layout

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// lock locks the pool for this process until the pool's directory is closed. The kernel
// releases the lock when the process ends, also after a crash. The lock is on the directory itself,
// because a lock file could be removed and made again by a second driver. The file has the number
// of the process. Errors: ErrUnavailable while another process has the lock.
func lock(root openat.Dir) error {
	f, err := root.OpenFile(LockFile, unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(root.FD(), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		return volume.Because(volume.ReasonInUse, fmt.Errorf(
			"%w: a live driver owns it (process %q by its %s file): %w",
			volume.ErrUnavailable, strings.TrimSpace(string(holder)), LockFile, err))
	}
	// The number only helps the person who reads the error; it is not needed for the lock.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return nil
}

// Unlock lets another process have the pool while its directories are still open.
func (d *Dir) Unlock() error {
	conn, err := d.Root.SyscallConn() // not Fd: another goroutine may be closing the directory
	if err != nil {
		return err
	}
	var unlockErr error
	err = conn.Control(func(fd uintptr) { unlockErr = unix.Flock(int(fd), unix.LOCK_UN) })
	return errors.Join(err, unlockErr)
}
