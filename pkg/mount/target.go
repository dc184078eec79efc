package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Target is a path at which a volume is, or is to be, visible. It lies below the kubelet's
// directory. Targets compare with ==.
type Target struct {
	base string // the kubelet's directory
	rel  string // below it: clean, not "."
}

// ParseTarget takes a path of a request. Errors: ErrInvalid unless it is absolute, clean and below
// base.
func ParseTarget(base, target string) (Target, error) {
	switch {
	case target == "":
		return Target{}, fmt.Errorf("%w: path is empty", volume.ErrInvalid)
	case len(target) >= unix.PathMax:
		return Target{}, fmt.Errorf("%w: path has %d bytes, at most %d are allowed", volume.ErrInvalid,
			len(target), unix.PathMax-1)
	case strings.ContainsRune(target, 0):
		return Target{}, fmt.Errorf("%w: path %q has a NUL byte", volume.ErrInvalid, target)
	case !path.IsAbs(target) || path.Clean(target) != target:
		return Target{}, fmt.Errorf(
			"%w: path %q must be absolute, without \".\", \"..\" or repeated slashes",
			volume.ErrInvalid,
			target,
		)
	}
	for part := range strings.SplitSeq(target, "/") {
		if len(part) > maxNameBytes {
			return Target{}, fmt.Errorf("%w: path %q has a component of %d bytes, at most %d are allowed",
				volume.ErrInvalid, target, len(part), maxNameBytes)
		}
	}
	rel, ok := below(base, target)
	if !ok || rel == "" {
		return Target{}, fmt.Errorf("%w: path %q is not below the kubelet's directory %s (--kubelet-dir)",
			volume.ErrInvalid, target, base)
	}
	return Target{base: base, rel: rel}, nil
}

// String is the path as requests have it.
func (t Target) String() string { return path.Join(t.base, t.rel) }

// PodUID is the UID of the pod in whose directory kubelet has the target: <base>/pods/<UID>/…;
// empty elsewhere.
func (t Target) PodUID() string {
	rest, ok := strings.CutPrefix(t.rel, "pods/")
	uid, _, isBelow := strings.Cut(rest, "/")
	if !ok || !isBelow {
		return ""
	}
	return uid
}

// maxNameBytes is NAME_MAX of linux/limits.h.
const maxNameBytes = 255

// place is a target's parent directory, open, and the name in it. Every step on a target goes
// through it, so that nobody can exchange a directory on the way between two steps. (The
// descriptors are bare: every call opens two, and an os.File costs three system calls and a
// finalizer more.)
type place struct {
	parent int // O_PATH
	name   string
	target Target
}

// open resolves the parent below the kubelet's directory without following any link. The caller
// closes it. Errors: os.ErrNotExist when there is no parent.
func (t Target) open() (*place, error) {
	base, err := unix.Open(t.base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: t.base, Err: err}
	}
	defer unix.Close(base)
	fd, err := unix.Openat2(base, path.Dir(t.rel), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return nil, fmt.Errorf("%w: the way to %s leads through a link", volume.ErrInvalid, t)
	case errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%w: the way to %s leads through a file: %w", volume.ErrInvalid, t, err)
	case err != nil:
		return nil, &os.PathError{Op: "open the parent directory of", Path: t.String(), Err: err}
	}
	return &place{parent: fd, name: path.Base(t.rel), target: t}, nil
}

func (p *place) close() { unix.Close(p.parent) }

// state is what stands at a place.
type state struct {
	mode      uint32 // file type and permissions
	size      int64
	mountRoot bool
	id        identity
}

// kind is the file type: S_IFDIR, S_IFREG and so on.
func (s state) kind() uint32 { return s.mode & unix.S_IFMT }

// targetKind is what the thing can be mounted on: a directory on a directory, anything else on a
// regular file.
func (s state) targetKind() uint32 {
	if s.kind() == unix.S_IFDIR {
		return unix.S_IFDIR
	}
	return unix.S_IFREG
}

// identity tells two files apart, over all filesystems.
type identity struct {
	major, minor uint32
	inode        uint64
}

const (
	wantedStatx    = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_SIZE
	noFollowNoAuto = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
)

// look reads the state of the topmost thing at the place.
func (p *place) look() (state, error) { return statx(p.parent, p.name, noFollowNoAuto) }

func statx(fd int, name string, flags int) (state, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, name, flags, wantedStatx, &st); err != nil {
		return state{}, err
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return state{}, errors.New(
			"this kernel cannot tell a mount point (statx(2), STATX_ATTR_MOUNT_ROOT): Linux 5.8 or newer is needed",
		)
	}
	return state{
		mode:      uint32(st.Mode),
		size:      int64(st.Size), //nolint:gosec // a file's size
		mountRoot: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		id:        identity{major: st.Dev_major, minor: st.Dev_minor, inode: st.Ino},
	}, nil
}

// make makes what the source can be bound on, a directory or an empty file, if nothing is there. It
// says whether it did.
func (p *place) make(kind uint32) (made bool, err error) {
	if kind == unix.S_IFDIR {
		err = unix.Mkdirat(p.parent, p.name, 0o750)
	} else {
		var fd int
		if fd, err = unix.Openat(
			p.parent,
			p.name,
			unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC,
			0o640,
		); err == nil {
			err = unix.Close(fd)
		}
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EEXIST):
		return false, nil
	default:
		return false, &os.PathError{Op: "make", Path: p.target.String(), Err: err}
	}
}

// pin opens the thing at the place. The caller closes it.
func (p *place) pin() (*os.File, error) {
	fd, err := unix.Openat(p.parent, p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: p.target.String(), Err: err}
	}
	return os.NewFile(uintptr(fd), p.target.String()), nil
}

// checkUnused refuses a place where a mount would hide something, or that is not of the kind to
// mount on. Errors: ErrInUse.
func (p *place) checkUnused(st state, want uint32) error {
	switch kind := st.kind(); {
	case kind != want:
		return fmt.Errorf("%w: %s has file type %#o, on which this volume cannot be mounted: remove it",
			volume.ErrInUse, p.target, kind)
	case kind == unix.S_IFDIR:
		return p.checkEmptyDir()
	case st.size != 0:
		return fmt.Errorf("%w: %s is a file of %d bytes and not a mount: move it away", volume.ErrInUse,
			p.target, st.size)
	default:
		return nil
	}
}

func (p *place) checkEmptyDir() error {
	fd, err := unix.Openat(p.parent, p.name,
		unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: p.target.String(), Err: err}
	}
	d := os.NewFile(uintptr(fd), p.target.String())
	defer d.Close()
	names, err := d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look whether %s is empty: %w", p.target, err)
	}
	return fmt.Errorf(
		"%w: directory %s is not a mount and not empty, it has %q: move its content away",
		volume.ErrInUse,
		p.target,
		names[0],
	)
}

// unmake removes what make made, never more: a directory only if it is empty, a file only if it is.
func (p *place) unmake() error {
	st, err := p.look()
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: p.target.String(), Err: err}
	}
	switch kind := st.kind(); {
	case kind == unix.S_IFDIR:
		err = unix.Unlinkat(p.parent, p.name, unix.AT_REMOVEDIR)
	case kind == unix.S_IFREG && st.size == 0:
		err = unix.Unlinkat(p.parent, p.name, 0)
	default:
		return fmt.Errorf(
			"%w: %s is not a mount and not an empty file: the driver did not make it and does not remove it",
			volume.ErrInUse,
			p.target,
		)
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTEMPTY):
		return fmt.Errorf("%w: directory %s is not a mount and not empty: move its content away",
			volume.ErrInUse, p.target)
	default:
		return &os.PathError{Op: "remove", Path: p.target.String(), Err: err}
	}
}
