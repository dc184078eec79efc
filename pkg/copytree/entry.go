package copytree

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// place is where a copy is made.
type place struct {
	dir  descriptor
	name string
}

func (p place) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: strconv.Quote(p.name), Err: err}
}

// entry copies what has a name in a directory, whatever it is by now.
func (c *copier) entry(at pair, name string) error {
	src, err := at.src.entry(name)
	if err != nil {
		return c.passOver(err)
	}
	defer src.close()
	a, err := src.attributes()
	if err != nil {
		return err
	}
	switch {
	case a.kind() == unix.S_IFDIR:
		// what the name led to has given way to it since we read the name
		c.Progress.vanished.Add(1)
		return nil
	case c.leavesOut(a):
		c.Progress.leftOut.Add(1)
		return nil
	case a.links > 1:
		return c.linked(src, a, place{at.dst, name})
	}
	err = c.make(src, a, place{at.dst, name})
	if errors.Is(err, unix.EEXIST) { // as in child
		return nil
	}
	return err
}

func (c *copier) leavesOut(a attributes) bool {
	switch a.kind() {
	case unix.S_IFBLK, unix.S_IFCHR:
		return !c.Policy.has(KeepDevices) && !a.isWhiteout()
	case unix.S_IFSOCK:
		return c.Policy.has(DropSockets)
	default:
		return false
	}
}

// make copies anything but a directory. Errors: unix.EEXIST when the place is taken, and nothing
// has been done.
func (c *copier) make(src descriptor, a attributes, to place) error {
	if a.kind() == unix.S_IFREG {
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
	return c.imitate(named(src), named(dst), a)
}

func (c *copier) makeFile(src descriptor, a attributes, to place) error {
	dst, err := to.dir.create(to.name, a.permissions())
	if err != nil {
		return err
	}
	defer dst.close()
	if err := c.chargeEntry(); err != nil {
		return err
	}
	if err := c.file(src, dst, a); err != nil {
		return to.fault("copy", err)
	}
	c.Progress.files.Add(1)
	return nil
}

// makeSpecial makes what has no content. Nobody can use it yet.
func makeSpecial(src descriptor, a attributes, to place) error {
	if a.kind() != unix.S_IFLNK {
		return to.fault("mknod",
			unix.Mknodat(int(to.dir), to.name, a.kind(), int(a.rdev))) //nolint:gosec // as mknod(2) takes it
	}
	var target [unix.PathMax]byte
	n, err := unix.Readlinkat(int(src), "", target[:])
	if err != nil {
		return to.fault("readlink", err)
	}
	return to.fault("symlink", unix.Symlinkat(string(target[:n]), int(to.dir), to.name))
}
