package copytree

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// newEntry is the directory and the name of an entry of the copy.
type newEntry struct {
	dir  descriptor
	name string
}

// wrap adds an operation and the entry's name to an error; nil stays nil.
func (e newEntry) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: strconv.Quote(e.name), Err: err}
}

// entry copies an entry that is no directory, of whatever type it is by now.
func (c *copier) entry(at pair, name string) error {
	src, err := at.src.entry(name)
	if err != nil {
		return c.skip(err)
	}
	defer src.close()
	a, err := src.attributes()
	if err != nil {
		return err
	}
	switch {
	case a.fileType() == unix.S_IFDIR:
		// The directory has replaced what had the name when the name was read.
		c.Progress.vanished.Add(1)
		return nil
	case c.excludes(a):
		c.Progress.leftOut.Add(1)
		return nil
	case a.links > 1:
		return c.linked(src, a, newEntry{at.dst, name})
	}
	err = c.make(src, a, newEntry{at.dst, name})
	if errors.Is(err, unix.EEXIST) { // as in child
		return nil
	}
	return err
}

func (c *copier) excludes(a attributes) bool {
	switch a.fileType() {
	case unix.S_IFBLK, unix.S_IFCHR:
		return !c.Policy.has(KeepDevices) && !a.isWhiteout()
	case unix.S_IFSOCK:
		return c.Policy.has(DropSockets)
	default:
		return false
	}
}

// make copies anything but a directory. Errors: unix.EEXIST if the name is taken, and nothing was
// done.
func (c *copier) make(src descriptor, a attributes, to newEntry) error {
	if a.fileType() == unix.S_IFREG {
		return c.makeFile(src, a, to)
	}
	if err := makeSpecial(src, a, to); err != nil {
		return err
	}
	if err := errors.Join(c.chargeEntry(), c.charge(a.blocks)); err != nil {
		return err
	}
	dst, err := to.dir.entry(to.name)
	if err != nil {
		return err
	}
	defer dst.close()
	c.Progress.others.Add(1)
	return c.copyAttributes(named(src), named(dst), a)
}

func (c *copier) makeFile(src descriptor, a attributes, to newEntry) error {
	dst, err := to.dir.create(to.name, a.permissions())
	if err != nil {
		return err
	}
	defer dst.close()
	if err := c.chargeEntry(); err != nil {
		return err
	}
	if err := c.file(src, dst, a); err != nil {
		return to.wrap("copy", err)
	}
	c.Progress.files.Add(1)
	return nil
}

// makeSpecial makes a link, a FIFO, a socket or a device node. Nobody can reach it yet.
func makeSpecial(src descriptor, a attributes, to newEntry) error {
	if a.fileType() != unix.S_IFLNK {
		device := int(a.rdev) //nolint:gosec // as mknod(2) takes it
		return to.wrap("mknod", unix.Mknodat(int(to.dir), to.name, a.fileType(), device))
	}
	var target [unix.PathMax]byte
	n, err := unix.Readlinkat(int(src), "", target[:])
	if err != nil {
		return to.wrap("readlink", err)
	}
	return to.wrap("symlink", unix.Symlinkat(string(target[:n]), int(to.dir), to.name))
}
