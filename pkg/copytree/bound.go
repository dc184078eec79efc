package copytree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrTooLarge says that the copy would exceed Options.MaxBytes or MaxEntries: the source was too
// large from the beginning, or has grown meanwhile.
var ErrTooLarge = errors.New("larger than its copy may be")

// ErrTooDeep says that the tree has more levels of directories than a path can name.
var ErrTooDeep = errors.New("too deep to be copied")

// charge counts bytes that the copy is about to take of the disk. Errors: ErrTooLarge.
func (c *copier) charge(bytes int64) error {
	if sum := c.Progress.allocatedBytes.Add(bytes); c.MaxBytes > 0 && sum > c.MaxBytes {
		return fmt.Errorf("%w: it may take %d bytes of the disk", ErrTooLarge, c.MaxBytes)
	}
	return nil
}

// chargeEntry counts an entry that was made. Errors: ErrTooLarge.
func (c *copier) chargeEntry() error {
	if sum := c.entries.Add(1); c.MaxEntries > 0 && sum > c.MaxEntries {
		return fmt.Errorf("%w: it may have %d files and directories", ErrTooLarge, c.MaxEntries)
	}
	return nil
}

// account has what was charged for one file.
type account struct {
	copier  *copier
	charged int64
	content int64 // the part for content, in whole blocks
}

// upTo raises what was charged to a number of bytes.
func (a *account) upTo(bytes int64) error {
	more := bytes - a.charged
	if more <= 0 {
		return nil
	}
	a.charged = bytes
	return a.copier.charge(more)
}

// extent charges content before it is copied. What the file had at first is charged already; more
// is charged if a hole was filled since then, or if blocks that were copied have been freed.
func (a *account) extent(from, end int64) error {
	block := a.copier.block
	a.content += roundUp(end, block) - from/block*block
	return a.upTo(a.content)
}

// shared charges a reflinked file: it has what the source had at that moment, which may be more
// than at first.
func (a *account) shared(dst descriptor) error {
	now, err := dst.attributes()
	if err != nil {
		return err
	}
	return a.upTo(a.copier.taken(now))
}

// taken returns what a file takes of the disk, with its extended attributes and its block maps.
// Space that is allocated beyond the file's end is not copied and does not count.
func (c *copier) taken(a attributes) int64 {
	return min(a.blocks, roundUp(a.size, c.block)+extendedMax)
}

func roundUp(bytes, block int64) int64 { return (bytes + block - 1) / block * block }

// chargeDirectory charges what the copy of the directory itself has grown by. It is called for each
// batch of names, because a pod can make a directory endless: it makes files ahead of the walk, and
// removes those behind it.
func (l *level) chargeDirectory(c *copier) error {
	a, err := l.dst.attributes()
	if err != nil {
		return err
	}
	more := a.blocks - l.charged
	l.charged, l.uncharged = a.blocks, 0
	return c.charge(more)
}

// blockSize returns the block size of a filesystem.
func blockSize(on descriptor) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(on), &st); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	return max(1, st.Bsize), nil
}
