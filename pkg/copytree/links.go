package copytree

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// links are the files of the copy that may get further names. They are remembered on disk, in a
// directory of the copy's root, under the inode of the source: a tree of any number of hard links
// takes no memory, and what one worker still fills another can already link.
type links struct {
	root descriptor

	mu   sync.Mutex
	dir  descriptor
	name string // empty until there is one
}

// directory makes it when the first is to be remembered. Its name is random: the tree has one like
// it by no accident.
func (l *links) directory() (descriptor, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.name != "" {
		return l.dir, nil
	}
	name := ".copytree-" + rand.Text()
	if err := unix.Mkdirat(int(l.root), name, 0o700); err != nil {
		return -1, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	dir, err := l.root.subdirectory(name)
	if err != nil {
		return -1, err
	}
	l.dir, l.name = dir, name
	return dir, nil
}

// linked copies a file that has further names, or links it to its copy.
func (c *copier) linked(src descriptor, a attributes, to place) error {
	dir, err := c.links.directory()
	if err != nil {
		return err
	}
	first := place{dir, a.String()}
	made := false
	for {
		err := unix.Linkat(int(first.dir), first.name, int(to.dir), to.name, 0)
		switch {
		case err == nil:
			if !made {
				c.Progress.links.Add(1)
			}
			return nil
		case errors.Is(err, unix.EEXIST): // as in child
			return nil
		case errors.Is(err, unix.ENOENT):
			err = c.make(src, a, first)
			made = made || err == nil
			if err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
		case errors.Is(err, unix.EMLINK):
			// no more on this filesystem: the others become links of a second copy
			if err := unix.Unlinkat(int(first.dir), first.name, 0); err != nil &&
				!errors.Is(err, unix.ENOENT) {
				return first.fault("unlink", err)
			}
		default:
			return to.fault("link", err)
		}
	}
}

func (i inode) String() string {
	return fmt.Sprintf("%x.%x.%x.%x", i.device, i.number, i.born.Sec, i.born.Nsec)
}

// remove takes the directory away, and says whether there was one.
func (l *links) remove() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.name == "" {
		return false, nil
	}
	if err := l.empty(); err != nil {
		return true, err
	}
	if err := unix.Unlinkat(int(l.root), l.name, unix.AT_REMOVEDIR); err != nil {
		return true, &os.PathError{Op: "rmdir", Path: l.name, Err: err}
	}
	return true, nil
}

// close is for the end of a copy, also of one that has failed.
func (l *links) close() {
	if l.name != "" {
		l.dir.close()
	}
}

// empty reads the directory again until nothing is there: some filesystems skip entries when others
// are removed meanwhile.
func (l *links) empty() error {
	for {
		removed, err := l.removeOnce()
		if err != nil || removed == 0 {
			return err
		}
	}
}

func (l *links) removeOnce() (removed int, err error) {
	dir, err := l.dir.again()
	if err != nil {
		return 0, err
	}
	defer dir.close()
	var list entries
	for {
		found, err := list.next(dir)
		if errors.Is(err, io.EOF) {
			return removed, nil
		}
		if err != nil {
			return removed, err
		}
		if err := unix.Unlinkat(int(dir), found.name, 0); err != nil {
			return removed, &os.PathError{Op: "unlink", Path: found.name, Err: err}
		}
		removed++
	}
}
