package hostpath

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Host is the node's file tree as the driver sees it, with the rules for it.
type Host struct {
	rules *Rules
	// root is where the node's / is in the driver's own tree.
	root string
}

// NewHost reaches the node's paths below root: "/", or where the container has the host's root
// mounted.
func NewHost(root string, rules *Rules) *Host { return &Host{rules: rules, root: root} }

// Opened is a path of the host that is allowed, exists, and is what it should be.
type Opened struct {
	// File is an O_PATH descriptor. The caller closes it.
	File *os.File
	// ReadOnly is the operator's rule: no mount of it may be writable.
	ReadOnly bool
}

// beneath resolves a path without leaving the directory it starts from: no link, no magic link, no
// "..".
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Check says whether the rules allow a use, without looking at the disk. Errors: ErrForbidden.
func (h *Host) Check(use Use) error {
	_, err := h.rules.find(use)
	return err
}

// Open opens what a pod asks for, and makes it if its type says so, with exactly the mode and owner
// of the specification. What is checked is the descriptor that it returns. Errors: ErrForbidden,
// naming the rule that is missing; ErrPrecondition when the path is absent or something else;
// ErrUnavailable when the host's tree cannot be reached.
func (h *Host) Open(use Use, spec volume.Spec) (Opened, error) {
	rule, err := h.rules.find(use)
	if err != nil {
		return Opened{}, err
	}
	host, err := os.OpenFile(h.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Opened{}, fmt.Errorf("%w: the host's root (--host-root): %w", volume.ErrUnavailable, err)
	}
	defer host.Close()
	f, err := open(host, rule, use, spec)
	if err != nil {
		return Opened{}, err
	}
	err = checkKind(f, use)
	if err == nil {
		err = h.rules.checkPlace(host, f, rule, use)
	}
	if err != nil {
		return Opened{}, errors.Join(err, f.Close())
	}
	return Opened{File: f, ReadOnly: rule.ReadOnly}, nil
}

// open opens the path beneath the rule's root; where nothing is, it makes what the type makes.
func open(host *os.File, rule Rule, use Use, spec volume.Spec) (*os.File, error) {
	at, rel := host, strings.TrimPrefix(use.Path, "/")
	if rule.Path != use.Path {
		root, err := openBeneath(host, strings.TrimPrefix(rule.Path, "/"), unix.O_DIRECTORY)
		if err != nil {
			return nil, describe(err, rule.Path, "the root of the hostPaths rule, a directory")
		}
		defer root.Close()
		at, rel = root, strings.TrimPrefix(use.Path, rule.Path+"/")
	}
	f, err := openBeneath(at, rel, 0)
	if errors.Is(err, unix.ENOENT) && use.Type.Creates() {
		if rule.ReadOnly {
			return nil, fmt.Errorf(
				"%w: host path %s does not exist, and nothing is made there: the hostPaths rule for %s is read-only",
				volume.ErrPrecondition,
				use.Path,
				rule.Path,
			)
		}
		if err := create(at, rel, spec); err != nil {
			return nil, describe(err, use.Path, string(use.Type)+", whose parents must be directories")
		}
		f, err = openBeneath(at, rel, 0)
	}
	if err != nil {
		return nil, describe(err, use.Path, string(use.Type))
	}
	return f, nil
}

func openBeneath(at *os.File, rel string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(at.Fd()), rel, &unix.OpenHow{
		Flags:   flags | unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: beneath,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// describe says what was found instead of a path.
func describe(err error, name, wanted string) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: host path %s does not exist, wanted is %s", volume.ErrPrecondition, name,
			wanted)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return fmt.Errorf(
			"%w: host path %s leads through a symbolic link, and none is followed: name the place itself",
			volume.ErrForbidden,
			name,
		)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf(
			"%w: host path %s leads through something that is not a directory, wanted is %s",
			volume.ErrPrecondition,
			name,
			wanted,
		)
	case errors.Is(err, unix.ENAMETOOLONG):
		return fmt.Errorf("%w: host path %.64q…: a name in it is too long", volume.ErrInvalid, name)
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf(
			"%w: host paths need openat2(2), Linux 5.6 or newer: nothing older opens them safely",
			volume.ErrUnavailable,
		)
	default:
		return fmt.Errorf("host path %s: %w", name, err)
	}
}

// kinds are the file types of stat(2) that the types of volume want.
var kinds = map[volume.Type]uint32{
	volume.DirectoryOrCreate: unix.S_IFDIR,
	volume.Directory:         unix.S_IFDIR,
	volume.FileOrCreate:      unix.S_IFREG,
	volume.File:              unix.S_IFREG,
	volume.Socket:            unix.S_IFSOCK,
	volume.CharDevice:        unix.S_IFCHR,
	volume.BlockDevice:       unix.S_IFBLK,
}

// kindNames are what messages call them.
var kindNames = map[uint32]string{
	unix.S_IFDIR:  "a directory",
	unix.S_IFREG:  "a regular file",
	unix.S_IFSOCK: "a socket",
	unix.S_IFCHR:  "a character device",
	unix.S_IFBLK:  "a block device",
	unix.S_IFIFO:  "a FIFO",
}

// checkKind looks at the descriptor that will be bound. Errors: ErrPrecondition; ErrForbidden for a
// link.
func checkKind(f *os.File, use Use) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("host path %s: %w", use.Path, err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK { // O_PATH|O_NOFOLLOW opens the link itself
		return describe(unix.ELOOP, use.Path, string(use.Type))
	}
	if kind != kinds[use.Type] {
		return fmt.Errorf("%w: host path %s is %s, type %s wants %s",
			volume.ErrPrecondition, use.Path, kindNames[kind], use.Type, kindNames[kinds[use.Type]])
	}
	return nil
}
