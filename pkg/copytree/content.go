package copytree

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// file copies a regular file into an empty one. path may be an O_PATH descriptor. before are the
// attributes that the file had when its type was read.
func (c *copier) file(path, dst descriptor, before attributes) error {
	src, err := c.openToRead(path)
	if err != nil {
		return err
	}
	defer src.close()
	account := &account{copier: c}
	if err := account.upTo(c.taken(before)); err != nil {
		return err
	}
	if err := c.content(src, dst, before, account); err != nil {
		return err
	}
	after, err := src.attributes()
	if err != nil {
		return err
	}
	policy := c.Policy
	if before.ctime != after.ctime {
		// The file was changed meanwhile. If a program is exchanged for another one, the content of the
		// old one must not get the set-ID bit of the new one.
		policy |= DropSetID
	}
	if err := policy.copyAttributes(opened(src), opened(dst), after); err != nil {
		return err
	}
	return c.syncEarly(dst)
}

const (
	// fsyncFiles is how many files are copied before an fsync(2).
	fsyncFiles = 128
	// syncfsFiles is how many files are copied before the first syncfs(2). Each further one comes
	// after half as many files again.
	syncfsFiles = 2048
)

// syncEarly keeps the disk busy while the copy goes on, in two ways:
//
// An fsync(2) keeps the filesystem's journal short. On ext4 and XFS the fsync(2) of another process
// writes all of the journal, so without this a concurrent CreateVolume would wait for everything
// that the copy has made so far.
//
// A syncfs(2) writes the content of a copy that is to be durable. If all of it came at the end, one
// processor would allocate the blocks of all small files. It also writes what pods have changed, so
// it comes less often the longer the copy takes; but it comes with every fsync(2) while others wait
// for the disk, so that none of them waits for a large one.
func (c *copier) syncEarly(dst descriptor) error {
	n := c.copied.Add(1)
	if n%fsyncFiles != 0 || !c.syncing.CompareAndSwap(false, true) {
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(dst), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		c.syncing.Store(false)
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	write, name := unix.Fsync, "fsync"
	if c.Durability == Durable && (n >= c.nextSyncfs || c.TakeOthers()) {
		c.nextSyncfs = max(syncfsFiles, n+n/2)
		write, name = unix.Syncfs, "syncfs"
	}
	c.syncs.Go(func() {
		defer c.syncing.Store(false)
		defer unix.Close(fd)
		if err := write(fd); err != nil {
			c.Fail(os.NewSyscallError(name, err))
		}
	})
	return nil
}

// leaseInterval is the time between two attempts to open a file that has a lease.
const leaseInterval = 20 * time.Millisecond

// leasePatience is twice the time after which the kernel breaks a lease. If a file still has a
// lease then, its process takes it again and again.
func leasePatience() (time.Duration, error) {
	content, err := os.ReadFile("/proc/sys/fs/lease-break-time")
	if err != nil {
		return 0, err
	}
	seconds, err := strconv.Atoi(strings.TrimSpace(string(content)))
	return 2 * time.Duration(seconds) * time.Second, err
}

// openToRead opens a regular file for reading. It waits while another process has a lease on it.
func (c *copier) openToRead(path descriptor) (descriptor, error) {
	var begin time.Time
	for {
		fd, err := openat.OpenFD(int(c.fdDir), strconv.Itoa(int(path)), readFile, 0)
		switch {
		case err == nil:
			return descriptor(fd), nil
		case errors.Is(err, unix.EAGAIN):
			if begin.IsZero() {
				begin = time.Now()
			}
			if err := c.awaitLease(begin); err != nil {
				return -1, err
			}
		default:
			return -1, os.NewSyscallError("open", err)
		}
	}
}

// awaitLease waits for a moment. It fails if the file has been opened in vain for leasePatience.
func (c *copier) awaitLease(begin time.Time) error {
	patience, err := c.leasePatience()
	if err != nil {
		return err
	}
	if waited := time.Since(begin); waited > patience {
		return fmt.Errorf("a file could not be opened for %s: "+
			"a process keeps a lease on it (fcntl(2), F_SETLEASE) and takes it again: %w",
			waited.Round(time.Millisecond), unix.EAGAIN)
	}
	return c.pause(leaseInterval)
}

func (c *copier) pause(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.Context().Done():
		return c.Stopped()
	}
}

// content copies the content of a file: it shares the blocks if it can.
func (c *copier) content(src, dst descriptor, a attributes, account *account) error {
	if a.size == 0 {
		return nil
	}
	shared, err := c.reflink(src, dst)
	if err != nil {
		return err
	}
	if shared {
		c.Progress.bytes.Add(a.blocks)
		c.Progress.sharedBytes.Add(a.blocks)
		return account.shared(dst)
	}
	return c.upToEnd(src, dst, a, account)
}

// truncatedTries bounds how often a file is read on that ended early and has changed meanwhile.
const truncatedTries = 10

// upToEnd copies all data of a file, and makes the copy as long as the file was, or is now if that
// is less. If the data ends before that, a hole follows; or a process has truncated the file and is
// writing it again, and that data must not become a hole.
func (c *copier) upToEnd(src, dst descriptor, a attributes, account *account) (err error) {
	seen, reached := a, int64(0)
	for tries := 1; ; tries++ {
		if reached, err = c.extents(src, dst, a, reached, account); err != nil || reached == a.size {
			return err
		}
		now, err := src.attributes()
		if err != nil {
			return err
		}
		if now.ctime == seen.ctime || tries == truncatedTries {
			return os.NewSyscallError("ftruncate",
				unix.Ftruncate(int(dst), min(a.size, max(reached, now.size))))
		}
		seen = now
	}
}

// reflink makes dst share all blocks of src; false if it cannot.
func (c *copier) reflink(src, dst descriptor) (bool, error) {
	if c.noReflink.Load() {
		return false, nil
	}
	err := retry(func() error { return unix.IoctlFileClone(int(dst), int(src)) })
	switch {
	case err == nil:
		return true, nil
	case isUnsupported(err):
		c.noReflink.Store(true)
		return false, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.EPERM):
		// for this file only (ioctl_ficlone(2))
		return false, nil
	default:
		return false, os.NewSyscallError("ioctl FICLONE", err)
	}
}

// isUnsupported reports whether an error means that a system call cannot work between these two
// filesystems.
func isUnsupported(err error) bool {
	return errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS)
}

// retry repeats a system call that a signal interrupts.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// seekFrom is the size from which on a file is asked for its holes. A smaller file is asked only if
// it has fewer blocks than its size needs.
const seekFrom = 64 << 10

// extents copies the data of a file from an offset on, and returns where the last data ended.
func (c *copier) extents(
	src, dst descriptor, a attributes, from int64, account *account,
) (reached int64, err error) {
	if a.size < seekFrom && a.blocks >= a.size {
		return c.extent(src, dst, from, a.size)
	}
	for reached = from; reached < a.size; {
		data, end, err := openat.NextData(int(src), reached, a.size)
		if err != nil || data == end {
			return reached, err
		}
		if err := account.extent(data, end); err != nil {
			return reached, err
		}
		reached, err = c.extent(src, dst, data, end)
		if err != nil || reached < end {
			return reached, err
		}
	}
	return reached, nil
}

// extent copies bytes, and returns where they ended: before end if the file has become shorter.
func (c *copier) extent(src, dst descriptor, from, end int64) (reached int64, err error) {
	for reached = from; reached < end; {
		n := int(min(end-reached, MaxChunk))
		if err := c.admit(n); err != nil {
			return reached, err
		}
		n, err := c.chunk(src, dst, reached, n)
		if err != nil || n == 0 {
			return reached, err
		}
		reached += int64(n)
		c.Progress.bytes.Add(int64(n))
		// Start to write it, so that the sync at the end is short: others wait for that one.
		if n == MaxChunk {
			_ = unix.SyncFileRange(int(dst), reached-MaxChunk, MaxChunk, unix.SYNC_FILE_RANGE_WRITE)
		}
	}
	return reached, nil
}

func (c *copier) admit(bytes int) error {
	if err := c.Proceed(); err != nil || c.Limiter == nil {
		return err
	}
	return c.Limiter.WaitN(c.Context(), bytes)
}

// readWriteBytes is the length up to which read(2) and write(2) are faster than copy_file_range(2),
// which sets up a splice.
const readWriteBytes = 16 << 10

// chunk copies bytes at an offset, in the kernel if it can. It returns 0 at the end of the file.
func (c *copier) chunk(src, dst descriptor, offset int64, length int) (int, error) {
	if length <= readWriteBytes || c.noKernelCopy.Load() {
		return readWrite(src, dst, offset, length)
	}
	from, to := offset, offset
	n, err := unix.CopyFileRange(int(src), &from, int(dst), &to, length, 0)
	switch {
	case err == nil && n > 0:
		return n, nil
	case isUnsupported(err):
		c.noKernelCopy.Store(true)
	case err == nil,
		errors.Is(err, unix.EINTR),
		errors.Is(err, unix.EINVAL),
		errors.Is(err, unix.ETXTBSY),
		errors.Is(err, unix.EPERM):
	default:
		return 0, os.NewSyscallError("copy_file_range", err)
	}
	return readWrite(src, dst, offset, length)
}

//nolint:gochecknoglobals // all copies share the pool; the garbage collector empties it
var buffers = sync.Pool{New: func() any { return new([MaxChunk]byte) }}

func readWrite(src, dst descriptor, offset int64, length int) (int, error) {
	buffer, _ := buffers.Get().(*[MaxChunk]byte)
	defer buffers.Put(buffer)
	var n int
	err := retry(func() (err error) {
		n, err = unix.Pread(int(src), buffer[:length], offset)
		return err
	})
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	return n, writeAll(dst, buffer[:n], offset)
}

func writeAll(dst descriptor, content []byte, offset int64) error {
	for done := 0; done < len(content); {
		n, err := unix.Pwrite(int(dst), content[done:], offset+int64(done))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("write", err)
		}
		done += max(n, 0)
	}
	return nil
}
