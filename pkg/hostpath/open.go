package hostpath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
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

// NewHost reaches the node's paths below root: "/", or where the container has the host's root mounted.
func NewHost(root string, rules *Rules) *Host { return &Host{rules: rules, root: root} }

// Opened is a path of the host that is allowed, exists, and is what it should be.
type Opened struct {
	// File is an O_PATH descriptor. The caller closes it.
	File *os.File
	// ReadOnly is the operator's rule: no mount of it may be writable.
	ReadOnly bool
}

// beneath resolves a path without leaving the directory it starts from: no link, no magic link, no "..".
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Check says whether the rules allow a use, without looking at the disk. Errors: ErrForbidden.
func (h *Host) Check(use Use) error {
	_, err := h.rules.find(use)
	if err != nil {
		return err
	}
	return h.rules.checkForbidden(use.Path, use.Type.IsDevice())
}

// Open opens what a pod asks for, and makes it if its type says so, with exactly the mode and owner of the specification. What is
// checked is the descriptor that it returns. Errors: ErrForbidden, naming the rule that is missing; ErrInUse when the path is
// absent, something else, or behind a link.
func (h *Host) Open(use Use, spec volume.Spec) (Opened, error) {
	rule, err := h.rules.find(use)
	if err != nil {
		return Opened{}, err
	}
	if err := h.rules.checkForbidden(use.Path, use.Type.IsDevice()); err != nil {
		return Opened{}, err
	}
	f, err := h.open(rule, use, spec)
	if err != nil {
		return Opened{}, err
	}
	if err := h.check(f, use); err != nil {
		return Opened{}, errors.Join(err, f.Close())
	}
	return Opened{File: f, ReadOnly: rule.ReadOnly}, nil
}

func (h *Host) open(rule Rule, use Use, spec volume.Spec) (*os.File, error) {
	host, err := os.OpenFile(h.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: the host's root: %w", volume.ErrUnavailable, err)
	}
	defer host.Close()
	if rule.Path == use.Path {
		return h.openLast(host, strings.TrimPrefix(use.Path, "/"), use, spec)
	}
	root, err := openBeneath(host, strings.TrimPrefix(rule.Path, "/"), unix.O_DIRECTORY)
	if err != nil {
		return nil, describe(err, rule.Path, "the root of the hostPaths rule")
	}
	defer root.Close()
	return h.openLast(root, strings.TrimPrefix(use.Path, strings.TrimSuffix(rule.Path, "/")+"/"), use, spec)
}

// openLast opens a path below a descriptor; where nothing is, it makes what the type makes.
func (h *Host) openLast(at *os.File, rel string, use Use, spec volume.Spec) (*os.File, error) {
	f, err := openBeneath(at, rel, 0)
	if errors.Is(err, unix.ENOENT) && use.Type.Creates() {
		if err := create(at, rel, spec); err != nil {
			return nil, fmt.Errorf("make %s %s: %w", use.Type, use.Path, err)
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
		return fmt.Errorf("%w: host path %s does not exist, wanted is %s", volume.ErrInUse, name, wanted)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%w: host path %s leads through a symbolic link, and none is followed: name the place itself", volume.ErrForbidden, name)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: host path %s leads through something that is not a directory, wanted is %s", volume.ErrInUse, name, wanted)
	default:
		return fmt.Errorf("host path %s: %w", name, err)
	}
}

// create makes a directory and its parents, or an empty file whose parent must exist, as in-tree hostPath does. Something that
// appears in between is left for the type check.
func create(at *os.File, rel string, spec volume.Spec) error {
	parent, err := openParent(at, path.Dir(rel), spec.Type)
	if err != nil {
		return err
	}
	defer parent.Close()
	// Under another name until it has its mode and owner: a crash never leaves the path half made.
	building := fmt.Sprintf(".csi-hostpath.%016x", rand.Uint64()) //nolint:gosec // not a secret
	if err := build(parent, building, spec); err != nil {
		return errors.Join(err, remove(parent, building, spec.Type))
	}
	err = unix.Renameat2(int(parent.Fd()), building, int(parent.Fd()), path.Base(rel), unix.RENAME_NOREPLACE)
	if err != nil {
		err = errors.Join(err, remove(parent, building, spec.Type))
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return syncDir(parent)
}

// build makes an empty directory or file with the specification's mode and owner, durable but for its name.
func build(parent *os.File, name string, spec volume.Spec) error {
	var made *os.File
	var err error
	if spec.Type == volume.FileOrCreate {
		made, err = openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)
	} else {
		made, err = mkdir(parent, name, 0o700)
	}
	if err != nil {
		return err
	}
	defer made.Close()
	// Owner before mode: chown(2) clears setgid.
	if err := made.Chown(int(spec.UID), int(spec.GID)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(made.Fd()), spec.Mode); err != nil {
		return err
	}
	return made.Sync()
}

// remove takes away what build made, if it made anything.
func remove(parent *os.File, name string, t volume.Type) error {
	flags := 0
	if t != volume.FileOrCreate {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(int(parent.Fd()), name, flags); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// syncDir makes the names in a directory durable; the descriptor may be an O_PATH one.
func syncDir(dir *os.File) error {
	d, err := openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// openParent opens the directory to make something in. A parent that it makes has mode 0755 and belongs to root, whatever the umask.
func openParent(at *os.File, rel string, t volume.Type) (*os.File, error) {
	if t == volume.FileOrCreate {
		return openBeneath(at, rel, unix.O_DIRECTORY)
	}
	dir, err := openBeneath(at, ".", unix.O_DIRECTORY)
	for part := range strings.SplitSeq(rel, "/") {
		if err != nil || part == "." {
			break
		}
		dir, err = descend(dir, part)
	}
	return dir, err
}

// descend opens a directory in another, making it where nothing is, and closes the other.
func descend(dir *os.File, name string) (*os.File, error) {
	defer dir.Close()
	made, err := mkdir(dir, name, 0o755)
	if err == nil {
		defer made.Close()
		if err := errors.Join(unix.Fchmod(int(made.Fd()), 0o755), syncDir(dir)); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return openBeneath(dir, name, unix.O_DIRECTORY)
}

func mkdir(dir *os.File, name string, mode uint32) (*os.File, error) {
	if err := unix.Mkdirat(int(dir.Fd()), name, mode); err != nil {
		return nil, err
	}
	return openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

func openat(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
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
	unix.S_IFLNK:  "a symbolic link",
}

// check looks at the descriptor that will be bound: its type, and that it is none of the forbidden directories by another name,
// such as a bind mount. Errors: ErrInUse, ErrForbidden.
func (h *Host) check(f *os.File, use Use) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("host path %s: %w", use.Path, err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK {
		return describe(unix.ELOOP, use.Path, string(use.Type))
	}
	if kind != kinds[use.Type] {
		return fmt.Errorf("%w: host path %s is %s, type %s wants %s", volume.ErrInUse, use.Path, kindNames[kind], use.Type, kindNames[kinds[use.Type]])
	}
	for _, name := range append([]string{"/"}, h.rules.forbidden...) {
		var other unix.Stat_t
		if err := unix.Stat(path.Join(h.root, name), &other); err == nil && other.Dev == st.Dev && other.Ino == st.Ino {
			return fmt.Errorf("%w: host path %s is another name of %s, which is never offered", volume.ErrForbidden, use.Path, name)
		}
	}
	return nil
}
