package copytree

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

const (
	// openLevels bounds how many directories of a walk are open at once, however deep the tree.
	openLevels = 32
	// maxDepth bounds the memory for directories that are not open, a few hundred bytes each. No path
	// is that deep: PATH_MAX allows a fifth of it.
	maxDepth = 10_000
	// batch is how many names of a directory are in memory at a time.
	batch = 1024
)

// pair is a directory and its copy.
type pair struct {
	src, dst descriptor
	depth    int // below the root
}

func (p pair) close() {
	p.src.close()
	p.dst.close()
}

// directory copies a directory and everything below it. src and dst stay open.
func (c *copier) directory(src, dst descriptor) error {
	root, err := openPair(src, dst)
	if err != nil {
		return err
	}
	c.walk(root)
	c.trees.Wait()
	c.syncs.Wait()
	if err := c.Stopped(); err != nil {
		return err
	}
	removed, err := c.links.remove()
	if err != nil || !removed {
		return err
	}
	return c.finishAgain(src, dst)
}

// finishAgain sets the time of the root again, which has changed when links removed its directory.
func (c *copier) finishAgain(src, dst descriptor) error {
	root, err := openPair(src, dst)
	if err != nil {
		return err
	}
	defer root.close()
	return c.finish(root.src, root.dst)
}

func openPair(src, dst descriptor) (pair, error) {
	from, err := src.reopen()
	if err != nil {
		return pair{}, err
	}
	to, err := dst.reopen()
	if err != nil {
		from.close()
		return pair{}, err
	}
	return pair{src: from, dst: to}, nil
}

// walk copies a directory and everything below it, except what other workers take over, and closes
// the directory. It is depth first, so that it remembers one position for each level.
func (c *copier) walk(root pair) {
	w := &walk{copier: c}
	err := w.push(root)
	for err == nil && len(w.levels) > 0 {
		err = w.step()
	}
	if err != nil {
		c.Fail(err) // before the levels are closed, so that helpers stop
	}
	for _, l := range w.levels {
		l.close()
	}
}

// walk is one worker's way through a tree.
type walk struct {
	*copier

	levels []*level
}

// level is a directory on the path from the root to where a walk is.
type level struct {
	pair

	entries openat.EntryReader
	// helpers are the other workers that copy files of this directory.
	helpers sync.WaitGroup
	// parked is what is needed to open the pair again; nil while it is open.
	parked *parked
	// charged is the number of bytes that were charged for the copy of the directory itself, and
	// uncharged the number of names that were read since then.
	charged   int64
	uncharged int
	// removed has the attributes of src if src was removed while it was parked.
	removed *attributes
}

func (l *level) close() {
	l.helpers.Wait()
	if l.parked == nil {
		l.pair.close()
	}
}

// finish gives the directory's copy its attributes. Nothing may be made in the copy after that.
func (l *level) finish(c *copier) error {
	l.helpers.Wait()
	if l.removed != nil {
		return opened(l.dst).apply(*l.removed)
	}
	return c.finish(l.src, l.dst)
}

// push goes down into a directory. The walk closes the pair.
func (w *walk) push(p pair) error {
	w.levels = append(w.levels, &level{pair: p})
	if len(w.levels) <= openLevels {
		return nil
	}
	return w.park(w.levels[len(w.levels)-1-openLevels])
}

// step copies some files of the directory that the walk is in. Then it goes down, if a directory
// follows, or up, if the directory has ended.
func (w *walk) step() error {
	if err := w.Stopped(); err != nil {
		return err
	}
	l := w.levels[len(w.levels)-1]
	found, directory, end := l.read()
	if end != nil && !errors.Is(end, io.EOF) {
		return end
	}
	if l.uncharged += len(found) + 1; l.uncharged > batch {
		if err := l.chargeDirectory(w.copier); err != nil {
			return err
		}
	}
	// The directory has its entries in the order of their hashes; the disk has the files in the order
	// of their inodes.
	slices.SortFunc(found, func(a, b openat.Entry) int { return cmp.Compare(a.Inode, b.Inode) })
	if err := w.files(l.pair, found, &l.helpers); err != nil {
		return err
	}
	switch {
	case end != nil:
		return w.up()
	case directory != "":
		return w.down(l, directory)
	default:
		return nil
	}
}

// read returns the next entries that are no directories, with io.EOF at the end. If it comes to a
// directory, it stops and returns its name as well.
func (l *level) read() (found []openat.Entry, directory string, err error) {
	if l.removed != nil {
		return nil, "", io.EOF
	}
	return l.entries.NextFiles(int(l.src), batch)
}

// files copies entries. Before each one, it offers half of the remaining entries to an idle worker.
func (c *copier) files(at pair, left []openat.Entry, helpers *sync.WaitGroup) error {
	for len(left) > 0 {
		if err := c.Proceed(); err != nil {
			return err
		}
		mine, theirs := left[:(len(left)+1)/2], left[(len(left)+1)/2:]
		if len(theirs) > 0 && c.Offer(helpers, func() error { return c.files(at, theirs, helpers) }) {
			left = mine
		}
		if err := c.entry(at, left[0].Name); err != nil {
			return err
		}
		left = left[1:]
	}
	return nil
}

// down goes on in a subdirectory, unless an idle worker takes it over.
func (w *walk) down(l *level, name string) error {
	child, err := w.child(l.pair, name)
	if err != nil || child == nil {
		return err
	}
	taken := w.Offer(&w.trees, func() error {
		w.walk(*child)
		return nil
	})
	if taken {
		return nil
	}
	return w.push(*child)
}

// child opens a subdirectory and makes its copy; nil if the subdirectory is not to be copied.
func (c *copier) child(at pair, name string) (*pair, error) {
	if at.depth == maxDepth {
		return nil, fmt.Errorf("%w: it may have %d levels of directories", ErrTooDeep, maxDepth)
	}
	src, err := at.src.subdirectory(name)
	if err != nil {
		return nil, c.skip(err)
	}
	err = unix.Mkdirat(int(at.dst), name, 0o700)
	// If a name is removed and made again while its directory is read, it can come twice.
	if errors.Is(err, unix.EEXIST) {
		src.close()
		return nil, nil //nolint:nilnil // the first one is being copied
	}
	if err != nil {
		src.close()
		return nil, &os.PathError{Op: "mkdir", Path: strconv.Quote(name), Err: err}
	}
	dst, err := at.dst.subdirectory(name)
	if err = errors.Join(err, c.chargeEntry()); err != nil {
		src.close()
		dst.close()
		return nil, err
	}
	c.Progress.directories.Add(1)
	return &pair{src: src, dst: dst, depth: at.depth + 1}, nil
}

// skip counts an entry that cannot be opened because it is gone or does not belong to the tree. It
// returns all other errors.
func (c *copier) skip(err error) error {
	switch {
	case errors.Is(err, unix.EXDEV): // a mount point
		c.Progress.leftOut.Add(1)
		return nil
	case vanished(err):
		c.Progress.vanished.Add(1)
		return nil
	default:
		return err
	}
}

// up finishes the directory that the walk is in, and goes back to its parent.
func (w *walk) up() error {
	last := len(w.levels) - 1
	l := w.levels[last]
	if err := errors.Join(l.finish(w.copier), l.chargeDirectory(w.copier)); err != nil {
		return err
	}
	w.levels = w.levels[:last]
	defer l.close()
	if last == 0 {
		return nil
	}
	return w.levels[last-1].unpark(l.pair)
}

// finish gives a directory's copy its attributes.
func (c *copier) finish(src, dst descriptor) error {
	a, err := src.attributes()
	if err != nil {
		return err
	}
	return c.copyAttributes(opened(src), opened(dst), a)
}
