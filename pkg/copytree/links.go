package copytree

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// links remembers the files of the copy that may get further names. It does so on disk: in a
// directory of the copy's root each of these files has the source's inode as a name. So a tree with
// any number of hard links takes no memory, and a worker can link a file that another worker is
// still writing.
type links struct {
	root descriptor

	mu   sync.Mutex
	dir  descriptor
	name string // empty until the directory is made
}

// directory returns the directory, which it makes when it is called first. The directory's name is
// random, so that it does not occur in the tree.
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

// linked handles a file with several names: it copies the file the first time, and makes a link to
// that copy each further time.
func (c *copier) linked(src descriptor, a attributes, to newEntry) error {
	dir, err := c.links.directory()
	if err != nil {
		return err
	}
	first := newEntry{dir, a.String()}
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
			// The filesystem allows no more links: the remaining ones become links to a second copy.
			if err := unix.Unlinkat(int(first.dir), first.name, 0); err != nil &&
				!errors.Is(err, unix.ENOENT) {
				return first.wrap("unlink", err)
			}
		default:
			return to.wrap("link", err)
		}
	}
}

// String is the name of a file in the directory.
func (i inode) String() string {
	return fmt.Sprintf("%x.%x.%x.%x", i.device, i.number, i.born.Sec, i.born.Nsec)
}

// remove removes the directory, and returns whether there was one.
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

// close closes the directory at the end of a copy, also of one that has failed.
func (l *links) close() {
	if l.name != "" {
		l.dir.close()
	}
}

// empty reads the directory again until nothing is left: some filesystems skip entries if others
// are removed while the directory is read.
func (l *links) empty() error {
	for {
		removed, err := l.removeOnce()
		if err != nil || removed == 0 {
			return err
		}
	}
}

func (l *links) removeOnce() (removed int, err error) {
	dir, err := l.dir.reopen()
	if err != nil {
		return 0, err
	}
	defer dir.close()
	var list openat.EntryReader
	for {
		found, err := list.Next(int(dir))
		if errors.Is(err, io.EOF) {
			return removed, nil
		}
		if err != nil {
			return removed, err
		}
		if err := unix.Unlinkat(int(dir), found.Name, 0); err != nil {
			return removed, &os.PathError{Op: "unlink", Path: found.Name, Err: err}
		}
		removed++
	}
}
