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
)

const (
	// openLevels bounds how many directories of a walk are open at once, however deep the tree is.
	openLevels = 32
	// maxDepth bounds what is remembered of those that are not open, a few hundred bytes each. No
	// path leads that deep: PATH_MAX ends after a fifth of it.
	maxDepth = 10_000
	// batch is how many names of a directory are known at a time.
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

// directory copies a tree; src and dst stay open.
func (c *copier) directory(src, dst descriptor) error {
	root, err := openPair(src, dst)
	if err != nil {
		return err
	}
	c.walk(root)
	c.trees.Wait()
	c.paces.Wait()
	if err := c.stopped(); err != nil {
		return err
	}
	removed, err := c.links.remove()
	if err != nil || !removed {
		return err
	}
	return c.sealAgain(src, dst)
}

// sealAgain gives the root its time once more, which it has lost when an entry of ours was removed
// from it.
func (c *copier) sealAgain(src, dst descriptor) error {
	root, err := openPair(src, dst)
	if err != nil {
		return err
	}
	defer root.close()
	return c.seal(root.src, root.dst)
}

func openPair(src, dst descriptor) (pair, error) {
	from, err := src.again()
	if err != nil {
		return pair{}, err
	}
	to, err := dst.again()
	if err != nil {
		from.close()
		return pair{}, err
	}
	return pair{src: from, dst: to}, nil
}

// walk copies a directory, which it closes, and all that is below it but what other workers take
// over. It goes down before it goes on, so that it remembers one position for each level.
func (c *copier) walk(root pair) {
	w := &walk{copier: c}
	err := w.push(root)
	for err == nil && len(w.levels) > 0 {
		err = w.step()
	}
	if err != nil {
		c.fail(err) // first, so that helpers stop
	}
	for _, l := range w.levels {
		l.close()
	}
}

type walk struct {
	*copier

	levels []*level
}

// level is a directory that a walk stands in.
type level struct {
	pair

	entries entries
	// helpers are the workers that copy files of this directory.
	helpers sync.WaitGroup
	// parked is how to open the pair again, nil while it is open.
	parked *parked
	// charged is what has been counted of the copy's own blocks, uncharged are the names that were
	// read since.
	charged   int64
	uncharged int
	// removed are the attributes that src had, when it was gone on the way back up.
	removed *attributes
}

func (l *level) close() {
	l.helpers.Wait()
	if l.parked == nil {
		l.pair.close()
	}
}

// seal gives the directory's copy its attributes. Nothing is made in it after that.
func (l *level) seal(c *copier) error {
	l.helpers.Wait()
	if l.removed != nil {
		return opened(l.dst).apply(*l.removed)
	}
	return c.seal(l.src, l.dst)
}

// push takes over the pair.
func (w *walk) push(p pair) error {
	w.levels = append(w.levels, &level{pair: p})
	if len(w.levels) <= openLevels {
		return nil
	}
	return w.park(w.levels[len(w.levels)-1-openLevels])
}

// step copies a few files of the directory that the walk is in, and goes down or up if that comes
// next.
func (w *walk) step() error {
	if err := w.stopped(); err != nil {
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
	// A directory is read in the order of its hashes; its files lie on the disk in that of their
	// inodes.
	slices.SortFunc(found, func(a, b entry) int { return cmp.Compare(a.inode, b.inode) })
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

// read returns what are no directories, and io.EOF with the last of them. It stops at a directory,
// whose name comes apart.
func (l *level) read() (found []entry, directory string, err error) {
	if l.removed != nil {
		return nil, "", io.EOF
	}
	for len(found) < batch {
		next, err := l.entries.next(l.src)
		if err != nil {
			return found, "", err
		}
		if l.isDirectory(next) {
			return found, next.name, nil
		}
		found = append(found, next)
	}
	return found, "", nil
}

// isDirectory asks the filesystem where the directory does not tell kinds (getdents(2),
// DT_UNKNOWN): ext4 without the feature filetype, XFS without ftype. What cannot be asked for is no
// directory; opening it says why.
func (l *level) isDirectory(e entry) bool {
	if e.kind != unix.DT_UNKNOWN {
		return e.kind == unix.DT_DIR
	}
	var st unix.Stat_t
	err := unix.Fstatat(int(l.src), e.name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// files copies them, and gives half of what is left to whoever is idle meanwhile.
func (c *copier) files(at pair, left []entry, helpers *sync.WaitGroup) error {
	for len(left) > 0 {
		if err := c.proceed(); err != nil {
			return err
		}
		if mine, yours := left[:(len(left)+1)/2], left[(len(left)+1)/2:]; len(yours) > 0 &&
			c.offer(helpers, func() error { return c.files(at, yours, helpers) }) {
			left = mine
		}
		if err := c.entry(at, left[0].name); err != nil {
			return err
		}
		left = left[1:]
	}
	return nil
}

// down goes on in a subdirectory, if no other worker takes it.
func (w *walk) down(l *level, name string) error {
	child, err := w.child(l.pair, name)
	if err != nil || child == nil {
		return err
	}
	taken := w.offer(&w.trees, func() error {
		w.walk(*child)
		return nil
	})
	if taken {
		return nil
	}
	return w.push(*child)
}

// child opens a subdirectory and makes its copy; nil if it is not to be copied.
func (c *copier) child(at pair, name string) (*pair, error) {
	if at.depth == maxDepth {
		return nil, fmt.Errorf("%w: it may have %d levels of directories", ErrTooDeep, maxDepth)
	}
	src, err := at.src.subdirectory(name)
	if err != nil {
		return nil, c.passOver(err)
	}
	err = unix.Mkdirat(int(at.dst), name, 0o700)
	// a name that was given again while we read the directory comes twice
	if errors.Is(err, unix.EEXIST) {
		src.close()
		return nil, nil //nolint:nilnil // it is there
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

// passOver counts what cannot be opened because it is not there any more, or is not the tree's.
// Other errors stay errors.
func (c *copier) passOver(err error) error {
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

// up finishes the directory that the walk is in. Nothing is made in its copy any more, so that its
// time stays.
func (w *walk) up() error {
	last := len(w.levels) - 1
	l := w.levels[last]
	if err := errors.Join(l.seal(w.copier), l.chargeDirectory(w.copier)); err != nil {
		return err
	}
	w.levels = w.levels[:last]
	defer l.close()
	if last == 0 {
		return nil
	}
	return w.levels[last-1].unpark(l.pair)
}

// seal gives a directory's copy its attributes.
func (c *copier) seal(src, dst descriptor) error {
	a, err := src.attributes()
	if err != nil {
		return err
	}
	return c.imitate(opened(src), opened(dst), a)
}
