package btrfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/backend"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// destroy removes a subvolume and those that a pod has made in it, if there is one of that name. No
// time is spent on files: the kernel removes them afterwards. What is mounted there is refused,
// what is mounted inside is detached.
func (f filesystem) destroy(dir *os.File, name string) error {
	top, err := openat.Dir{File: dir}.OpenUnmounted(name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer top.Close()
	if ok, err := isSubvolume(top.File); !ok {
		return err
	}
	id, err := subvolumeOf(top.File)
	if err != nil {
		return err
	}
	if err := f.destroyBelow(id); err != nil {
		return err
	}
	unlock(top.File)
	return destroySubvolume(dir, []byte(name))
}

// nesting is a subvolume in which others are destroyed: next is the first that may still be there.
type nesting struct{ subvolume, next uint64 }

// destroyBelow removes the subvolumes in a subvolume, wherever in it they are: the kernel refuses
// to destroy one that has others. A pod can nest any number of them, of which two numbers each are
// remembered.
func (f filesystem) destroyBelow(top uint64) error {
	for below := []nesting{{subvolume: top}}; ; {
		at := &below[len(below)-1]
		child, err := f.child(at.subvolume, at.next, math.MaxUint64)
		switch {
		case err != nil:
			return err
		case child != nil:
			at.next = child.offset + 1
			below = append(below, nesting{subvolume: child.offset})
			continue
		case len(below) == 1:
			return nil
		}
		below = below[:len(below)-1]
		if err := f.destroyChild(below[len(below)-1].subvolume, at.subvolume); err != nil {
			return err
		}
	}
}

// child is the reference to the first subvolume in another one whose number is within bounds; nil
// if there is none.
func (f filesystem) child(parent, from, to uint64) (*item, error) {
	found, err := f.items(rootTree, parent, rootRef, from, to)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func (f filesystem) destroyChild(parent, child uint64) error {
	ref, err := f.child(parent, child, child)
	if err != nil || ref == nil { // nil: somebody else has removed it
		return err
	}
	inode, name, err := parseRef(ref.data)
	if err != nil {
		return fmt.Errorf("subvolume %d in %d: %w", child, parent, err)
	}
	for _, d := range []struct{ subvolume, inode uint64 }{{parent, firstFreeObject}, {child, firstFreeObject}} {
		root, err := f.openDir(d.subvolume, d.inode)
		if err != nil {
			return err
		}
		unlock(root)
		root.Close()
	}
	dir, err := f.openDir(parent, inode)
	if err != nil {
		return err
	}
	defer dir.Close()
	unlock(dir)
	return destroySubvolume(dir, name)
}

// parseRef reads struct btrfs_root_ref: the directory in which a subvolume is, and its name there.
func parseRef(data []byte) (inode uint64, name []byte, err error) {
	const header = 18 // dirid, sequence, name_len
	if len(data) < header || len(data) != header+int(binary.LittleEndian.Uint16(data[16:])) {
		return 0, nil, fmt.Errorf("btrfs: a reference of %d bytes makes no sense", len(data))
	}
	return binary.LittleEndian.Uint64(data), data[header:], nil
}

// openSubvolume opens the subvolume that holds a volume's data.
func openSubvolume(dir *os.File) (*os.File, error) {
	for _, name := range []string{backend.Data, backend.Holder} {
		f, err := openat.Dir{File: dir}.OpenUnmounted(name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ok, err := isSubvolume(f.File)
		if ok {
			return f.File, nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: its data is in no subvolume", os.ErrNotExist)
}
