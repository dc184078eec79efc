package copytree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrTooLarge says that there is more to copy than the options let: there was from the beginning,
// or came while it was copied.
var ErrTooLarge = errors.New("larger than its copy may be")

// ErrTooDeep says that a directory is below more others than any path can name.
var ErrTooDeep = errors.New("too deep to be copied")

// charge counts bytes that the copy is about to take of the disk.
func (c *copier) charge(bytes int64) error {
	if sum := c.Progress.allocatedBytes.Add(bytes); c.MaxBytes > 0 && sum > c.MaxBytes {
		return fmt.Errorf("%w: it may take %d bytes of the disk", ErrTooLarge, c.MaxBytes)
	}
	return nil
}

// chargeEntry counts an inode that was made.
func (c *copier) chargeEntry() error {
	if sum := c.entries.Add(1); c.MaxEntries > 0 && sum > c.MaxEntries {
		return fmt.Errorf("%w: it may have %d files and directories", ErrTooLarge, c.MaxEntries)
	}
	return nil
}

// account is what has been charged for one file.
type account struct {
	copier  *copier
	charged int64
	content int64 // of it, in whole blocks
}

// upTo charges what is beyond what has been charged.
func (a *account) upTo(bytes int64) error {
	more := bytes - a.charged
	if more <= 0 {
		return nil
	}
	a.charged = bytes
	return a.copier.charge(more)
}

// extent charges content before it is copied. It costs nothing that was there when the file was
// looked at first; a hole may have been filled since then, and what was copied been freed.
func (a *account) extent(from, end int64) error {
	block := a.copier.block
	a.content += roundUp(end, block) - from/block*block
	return a.upTo(a.content)
}

// shared charges what a reflinked file has become: it is what the source was at that moment, which
// may be more than it had been.
func (a *account) shared(dst descriptor) error {
	now, err := dst.attributes()
	if err != nil {
		return err
	}
	return a.upTo(a.copier.taken(now))
}

// taken is what a file takes, with its extended attributes and the maps of its blocks, but without
// what it has allocated for what may be appended: that is not copied.
func (c *copier) taken(a attributes) int64 {
	return min(a.blocks, roundUp(a.size, c.block)+extendedMax)
}

func roundUp(bytes, block int64) int64 { return (bytes + block - 1) / block * block }

// chargeDirectory counts what a directory's copy has grown by. It is asked for each batch of names:
// a pod that makes files ahead of the walk, and removes them behind it, makes a directory without
// end.
func (l *level) chargeDirectory(c *copier) error {
	a, err := l.dst.attributes()
	if err != nil {
		return err
	}
	more := a.blocks - l.charged
	l.charged, l.uncharged = a.blocks, 0
	return c.charge(more)
}

// blockSize is the least that a file with content takes of a filesystem.
func blockSize(on descriptor) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(on), &st); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	return max(1, st.Bsize), nil
}
