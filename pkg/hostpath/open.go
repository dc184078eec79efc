package hostpath

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Host is the node's file tree as the driver sees it, with the rules for it.
type Host struct {
	rules *Rules
	// root is where the node's / is in the driver's own tree.
	root string
}

// NewHost returns the tree of which the root is "/", or the directory where the container has the
// node's root mounted.
func NewHost(root string, rules *Rules) *Host { return &Host{rules: rules, root: root} }

// Check reports whether the rules allow a use, read-only or not; it does not look at the disk.
// Errors: ErrForbidden.
func (h *Host) Check(use Use) error {
	_, err := h.rules.find(use)
	return err
}

// Open opens what a pod requests, with O_PATH. If nothing is there and the type says so, it makes a
// directory or a file, durably, with exactly the mode and owner of the specification. All checks
// are made on the descriptor that it returns, which the caller closes. Errors: ErrForbidden, with
// what the rules or the use lack; ErrPrecondition when the path does not exist or has another type;
// ErrUnavailable when the host's tree cannot be reached.
func (h *Host) Open(use Use, spec volume.Spec) (*os.File, error) {
	rule, err := h.rules.find(use)
	if err == nil {
		err = rule.checkReadOnly(use)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(h.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: the host's root (--host-root): %w", volume.ErrUnavailable, err)
	}
	host := openat.Dir{File: f}
	defer host.Close()
	f, err = open(host, rule, use, spec)
	if err != nil {
		return nil, err
	}
	err = checkKind(f, use)
	if err == nil {
		err = h.rules.checkLocation(host, f, rule, use)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// open opens the path beneath the rule's root. If nothing is there, it makes what the type makes.
func open(host openat.Dir, rule Rule, use Use, spec volume.Spec) (*os.File, error) {
	at, rel := host, strings.TrimPrefix(use.Path, "/")
	if rule.Path != use.Path {
		root, err := openDir(host, strings.TrimPrefix(rule.Path, "/"))
		if err != nil {
			return nil, describe(err, rule.Path, "the root of the hostPaths rule, a directory")
		}
		defer root.Close()
		at, rel = root, strings.TrimPrefix(use.Path, rule.Path+"/")
	}
	f, err := at.Resolve(rel, unix.O_PATH, openat.Beneath)
	if errors.Is(err, unix.ENOENT) && use.Type.Creates() {
		if rule.ReadOnly {
			return nil, fmt.Errorf(
				"%w: host path %s does not exist, and nothing is made there: the hostPaths rule for %s is read-only",
				volume.ErrPrecondition, use.Path, rule.Path)
		}
		if err := create(at, rel, spec); err != nil {
			return nil, describe(err, use.Path, string(use.Type)+", whose parents must be directories")
		}
		f, err = at.Resolve(rel, unix.O_PATH, openat.Beneath)
	}
	if err != nil {
		return nil, describe(err, use.Path, string(use.Type))
	}
	return f, nil
}

// describe makes an error of what stands at a path instead of what the volume's type requires.
func describe(err error, name, required string) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: host path %s does not exist; required: %s",
			volume.ErrPrecondition, name, required)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return fmt.Errorf(
			"%w: host path %s leads through a symbolic link, and none is followed: name the place itself",
			volume.ErrForbidden, name)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf(
			"%w: host path %s leads through something that is not a directory; required: %s",
			volume.ErrPrecondition, name, required)
	case errors.Is(err, unix.EACCES):
		// Only the filesystem itself can refuse root (fuse_allow_current_process in fs/fuse/dir.c).
		return fmt.Errorf("%w: the filesystem of host path %s does not let root in: mount it with the option "+
			"allow_other (FUSE), or export it with no_root_squash (NFS)", volume.ErrPrecondition, name)
	case errors.Is(err, unix.ENAMETOOLONG):
		return fmt.Errorf("%w: host path %.64q…: a name in it is too long", volume.ErrInvalid, name)
	default:
		return fmt.Errorf("host path %s: %w", name, err)
	}
}

// kinds are the file types of stat(2) for the types of volumes.
var kinds = map[volume.Type]uint32{
	volume.DirectoryOrCreate: unix.S_IFDIR,
	volume.Directory:         unix.S_IFDIR,
	volume.FileOrCreate:      unix.S_IFREG,
	volume.File:              unix.S_IFREG,
	volume.Socket:            unix.S_IFSOCK,
	volume.CharDevice:        unix.S_IFCHR,
	volume.BlockDevice:       unix.S_IFBLK,
}

// kindNames are the names of file types in messages.
var kindNames = map[uint32]string{
	unix.S_IFDIR:  "a directory",
	unix.S_IFREG:  "a regular file",
	unix.S_IFSOCK: "a socket",
	unix.S_IFCHR:  "a character device",
	unix.S_IFBLK:  "a block device",
	unix.S_IFIFO:  "a FIFO",
}

// checkKind checks the type of the open file, which is the one that is mounted. Errors:
// ErrPrecondition; ErrForbidden for a link.
func checkKind(f *os.File, use Use) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return describe(err, use.Path, string(use.Type))
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
