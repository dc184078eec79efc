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
)

// file copies a regular file, open with O_PATH or otherwise, into an empty one. The attributes are
// those that it had before.
func (c *copier) file(path, dst descriptor, before attributes) error {
	src, err := c.reopen(path)
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
	trust := c.Policy
	if before.ctime != after.ctime {
		// Content that came from anybody must not get the set-ID bit that was meant for what
		// replaced it.
		trust |= DropSetID
	}
	if err := trust.imitate(opened(src), opened(dst), after); err != nil {
		return err
	}
	return c.pace(dst)
}

const (
	// paceFiles is how many files are copied before the journal is written.
	paceFiles = 128
	// earlyFiles is how many are copied before their content is written for the first time; then it
	// is written at each half more.
	earlyFiles = 2048
)

// pace has the disk work beside the copy. An fsync(2) keeps the filesystem's journal short: on ext4
// and XFS it writes what all others have changed as well, so CreateVolume of somebody else would
// wait for all that a copy has made so far. And what is to be durable in the end is written early,
// by syncfs(2), because that at the end has one processor allocate the blocks of all small files.
// It writes what pods have changed too, and is therefore called seldom, the less the longer a copy
// takes; but while others wait for the disk in small steps, so that they never wait for a large
// one.
func (c *copier) pace(dst descriptor) error {
	n := c.copied.Add(1)
	if n%paceFiles != 0 || !c.pacing.CompareAndSwap(false, true) {
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(dst), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		c.pacing.Store(false)
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	write, name := unix.Fsync, "fsync"
	if c.Durability == Durable && (n >= c.early || c.others.Swap(false)) {
		c.early = max(earlyFiles, n+n/2)
		write, name = unix.Syncfs, "syncfs"
	}
	c.paces.Go(func() {
		defer c.pacing.Store(false)
		defer unix.Close(fd)
		if err := write(fd); err != nil {
			c.fail(os.NewSyscallError(name, err))
		}
	})
	return nil
}

// leaseInterval is how often we look whether a lease is gone.
const leaseInterval = 20 * time.Millisecond

// leasePatience is twice the time after which the kernel breaks a lease: who has one longer takes
// it again and again.
func leasePatience() (time.Duration, error) {
	content, err := os.ReadFile("/proc/sys/fs/lease-break-time")
	if err != nil {
		return 0, err
	}
	seconds, err := strconv.Atoi(strings.TrimSpace(string(content)))
	return 2 * time.Duration(seconds) * time.Second, err
}

// reopen opens for reading what is known to be a regular file.
func (c *copier) reopen(path descriptor) (descriptor, error) {
	var begin time.Time
	for {
		fd, err := unix.Openat(int(c.self), strconv.Itoa(int(path)), readFile|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return descriptor(fd), nil
		case errors.Is(err, unix.EINTR):
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

// awaitLease pauses, unless it has been done for long enough.
func (c *copier) awaitLease(begin time.Time) error {
	patience, err := c.leasePatience()
	if err != nil {
		return err
	}
	if waited := time.Since(begin); waited > patience {
		return fmt.Errorf(
			"a file could not be opened for %s: a process keeps a lease on it (fcntl(2), F_SETLEASE) and takes it again: %w",
			waited.Round(time.Millisecond),
			unix.EAGAIN,
		)
	}
	return c.pause(leaseInterval)
}

func (c *copier) pause(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.ctx.Done():
		return c.stopped()
	}
}

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

// emptied bounds how often a file is looked at again that ended before its size and has changed
// meanwhile.
const emptied = 10

// upToEnd copies what is not a hole, and makes the copy as long as the file was, or is by now if
// that is less. Where the data ends before that, a hole follows; or the file was emptied, and has
// been written again since then, which must not become a hole.
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
		if now.ctime == seen.ctime || tries == emptied {
			return os.NewSyscallError("ftruncate",
				unix.Ftruncate(int(dst), min(a.size, max(reached, now.size))))
		}
		seen = now
	}
}

// reflink makes dst share all of src's blocks; false where that cannot be.
func (c *copier) reflink(src, dst descriptor) (bool, error) {
	if c.plain.Load() {
		return false, nil
	}
	err := retry(func() error { return unix.IoctlFileClone(int(dst), int(src)) })
	switch {
	case err == nil:
		return true, nil
	case isElsewhere(err):
		c.plain.Store(true)
		return false, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.EPERM):
		// this file only (ioctl_ficlone(2))
		return false, nil
	default:
		return false, os.NewSyscallError("ioctl FICLONE", err)
	}
}

// isElsewhere says whether two files are not where one system call could serve both.
func isElsewhere(err error) bool {
	return errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.ENOTTY) ||
		errors.Is(err, unix.ENOSYS)
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// seekFrom is the size from which on a file is asked for its holes; a smaller one has some if its
// blocks do not fill it.
const seekFrom = 64 << 10

// extents copies what is not a hole, from an offset on, and says where the last of it ended.
func (c *copier) extents(
	src, dst descriptor, a attributes, from int64, account *account,
) (reached int64, err error) {
	if a.size < seekFrom && a.blocks >= a.size {
		return c.extent(src, dst, from, a.size)
	}
	for reached = from; reached < a.size; {
		data, end, err := nextExtent(src, reached, a.size)
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

// nextExtent finds data from an offset on; nothing of it if there is none below the size.
func nextExtent(src descriptor, from, size int64) (data, end int64, err error) {
	data, err = unix.Seek(int(src), from, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && data >= size {
		return size, size, nil
	}
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek SEEK_DATA", err)
	}
	end, err = unix.Seek(int(src), data, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // it has shrunk
		return size, size, nil
	}
	if end <= data { // it was data and is a hole by now: go on behind it
		end = data + MaxChunk
	}
	return data, min(end, size), os.NewSyscallError("lseek SEEK_HOLE", err)
}

// extent copies bytes, and says where they ended: before the end if the file has become that short.
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
		// begin to write it, or the sync at the end has it all, and everybody waits for that
		if n == MaxChunk {
			_ = unix.SyncFileRange(int(dst), reached-MaxChunk, MaxChunk, unix.SYNC_FILE_RANGE_WRITE)
		}
	}
	return reached, nil
}

func (c *copier) admit(bytes int) error {
	if err := c.proceed(); err != nil || c.Limiter == nil {
		return err
	}
	return c.Limiter.WaitN(c.ctx, bytes)
}

// littleBytes are read and written sooner than the kernel has set up a splice.
const littleBytes = 16 << 10

// chunk copies bytes at an offset, in the kernel if it can; 0 at the end of the file.
func (c *copier) chunk(src, dst descriptor, offset int64, length int) (int, error) {
	if length <= littleBytes || c.slow.Load() {
		return readWrite(src, dst, offset, length)
	}
	from, to := offset, offset
	n, err := unix.CopyFileRange(int(src), &from, int(dst), &to, length, 0)
	switch {
	case err == nil && n > 0:
		return n, nil
	case isElsewhere(err):
		c.slow.Store(true)
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

//nolint:gochecknoglobals // a pool is one for all, and empty when nobody copies
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
