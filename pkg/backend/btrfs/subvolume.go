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

// destroy removes a subvolume, and the subvolumes that a pod has made in it. If nothing, or
// something else, has that name, it does nothing. It costs no time for files: the kernel removes
// them in the background. It fails if something is mounted on the subvolume; mounts inside it are
// detached.
func (f filesystem) destroy(dir openat.Dir, name string) error {
	top, err := dir.OpenUnmounted(name)
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
	return destroySubvolume(dir.File, []byte(name))
}

// nesting is a subvolume whose children are being destroyed: next is the lowest number that a child
// may still have.
type nesting struct{ subvolume, next uint64 }

// destroyBelow removes all subvolumes in a subvolume: the kernel refuses to destroy a subvolume
// that has others in it. A pod can nest any number of subvolumes; two numbers are remembered for
// each level.
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

// child returns the reference to the first subvolume in another one that has a number within
// bounds; nil if there is none.
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
	for _, subvolume := range []uint64{parent, child} {
		root, err := f.openDir(subvolume, firstFreeObject)
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

// parseRef parses struct btrfs_root_ref: the inode of the directory of a subvolume, and its name
// there.
func parseRef(data []byte) (inode uint64, name []byte, err error) {
	const header = 18 // dirid, sequence, name_len
	if len(data) < header || len(data) != header+int(binary.LittleEndian.Uint16(data[16:])) {
		return 0, nil, fmt.Errorf("btrfs: a reference of %d bytes makes no sense", len(data))
	}
	return binary.LittleEndian.Uint64(data), data[header:], nil
}

// openSubvolume opens the subvolume with a volume's data. Errors: os.ErrNotExist.
func openSubvolume(dir openat.Dir) (*os.File, error) {
	for _, name := range []string{backend.Data, backend.Holder} {
		f, err := dir.OpenUnmounted(name)
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
