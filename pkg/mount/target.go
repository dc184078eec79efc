package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Target is a path below kubelet's directory at which a volume is mounted, or is to be. Targets
// compare with ==.
type Target struct {
	base string // kubelet's directory
	rel  string // below it: clean, not "."
}

// ParseTarget parses a path of a request. The path may begin with another name of base, for example
// one with a symbolic link in it or that of a bind mount. The target is then the same as by base's
// own name. Errors: ErrInvalid unless the path is absolute, clean and below base.
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
	if !ok {
		rel, ok = belowOtherName(base, target)
	}
	if !ok || rel == "" {
		return Target{}, fmt.Errorf("%w: path %q is not below the kubelet's directory %s: give "+
			"--kubelet-dir (the chart's kubeletDir) the name that kubelet has as --root-dir",
			volume.ErrInvalid, target, base)
	}
	return Target{base: base, rel: rel}, nil
}

// belowOtherName returns the part of a path after the directory on its way that is base itself,
// whatever it is called there. That is safe whoever made the links on the way, because the rest is
// opened beneath base without following any (openTarget).
func belowOtherName(base, target string) (string, bool) {
	own, err := statx(unix.AT_FDCWD, base, unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC)
	if err != nil {
		return "", false
	}
	for i, c := range target {
		if c != '/' || i == 0 {
			continue
		}
		dir, err := statx(unix.AT_FDCWD, target[:i], unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC)
		if err != nil {
			return "", false
		}
		if dir.id == own.id {
			return target[i+1:], true
		}
	}
	return "", false
}

// String returns the path below kubelet's directory, under the name that the driver has for that.
func (t Target) String() string { return path.Join(t.base, t.rel) }

// PodUID returns the UID of the pod in whose directory the target is, <base>/pods/<UID>/…; empty if
// the target is elsewhere.
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

// openTarget is a target whose parent directory is open. Every step on the target goes through that
// descriptor, so that nobody can exchange a directory of the path between two steps. (The
// descriptors are bare: every call opens two, and an os.File costs three system calls and a
// finalizer more.)
type openTarget struct {
	parent int // O_PATH
	name   string
	target Target
}

// open resolves the target's parent below kubelet's directory without following any link. The
// caller closes it. Errors: os.ErrNotExist when there is no parent.
func (t Target) open() (*openTarget, error) {
	base, err := openat.OpenFD(unix.AT_FDCWD, t.base, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: t.base, Err: err}
	}
	defer unix.Close(base)
	fd, err := openat.ResolveFD(base, path.Dir(t.rel), unix.O_PATH|unix.O_DIRECTORY, openat.Beneath)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return nil, fmt.Errorf("%w: the way to %s leads through a link", volume.ErrInvalid, t)
	case errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%w: the way to %s leads through a file: %w", volume.ErrInvalid, t, err)
	case err != nil:
		return nil, &os.PathError{Op: "open the parent directory of", Path: t.String(), Err: err}
	}
	return &openTarget{parent: fd, name: path.Base(t.rel), target: t}, nil
}

func (t *openTarget) close() { unix.Close(t.parent) }

// state is what statx(2) says of a file.
type state struct {
	mode      uint32 // file type and permissions
	size      int64
	mountRoot bool // something is mounted there
	id        openat.Identity
}

// fileType is S_IFDIR, S_IFREG and so on.
func (s state) fileType() uint32 { return s.mode & unix.S_IFMT }

// mountPointType is the type of file on which the file can be mounted: a directory on a directory,
// everything else on a regular file.
func (s state) mountPointType() uint32 {
	if s.fileType() == unix.S_IFDIR {
		return unix.S_IFDIR
	}
	return unix.S_IFREG
}

const (
	wantedStatx    = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_SIZE
	noFollowNoAuto = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
)

// stat returns the state of the topmost file at the target.
func (t *openTarget) stat() (state, error) { return statx(t.parent, t.name, noFollowNoAuto) }

// statx takes what the kernel knows (AT_STATX_DONT_SYNC): what is mounted at a target may be of a
// filesystem that does not answer, and has to be unpublished all the same.
func statx(fd int, name string, flags int) (state, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, name, flags|unix.AT_STATX_DONT_SYNC, wantedStatx, &st)
	if err != nil {
		return state{}, err
	}
	return state{
		mode:      uint32(st.Mode),
		size:      int64(st.Size), //nolint:gosec // a file's size
		mountRoot: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		id:        openat.Identity{Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino},
	}, nil
}

// The modes of what is mounted on.
const (
	dirMode  = 0o750
	fileMode = 0o640
)

// create makes a directory or an empty file to mount on, if nothing is there. It returns whether it
// did.
func (t *openTarget) create(fileType uint32) (created bool, err error) {
	mode := unix.S_IFREG | uint32(fileMode)
	if fileType == unix.S_IFDIR {
		mode = unix.S_IFDIR | dirMode
		err = unix.Mkdirat(t.parent, t.name, dirMode)
	} else {
		err = t.createFile()
	}
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err == nil {
		err = openat.RemoveInheritedACLs(t.parent, t.name, mode)
	}
	if err != nil {
		return false, &os.PathError{Op: "make", Path: t.target.String(), Err: err}
	}
	return true, nil
}

func (t *openTarget) createFile() error {
	fd, err := openat.OpenFD(t.parent, t.name,
		unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// openEntry opens the topmost file at the target, with O_PATH. The caller closes it.
func (t *openTarget) openEntry() (*os.File, error) { return t.openWith(unix.O_PATH) }

func (t *openTarget) openWith(flags int) (*os.File, error) {
	fd, err := openat.OpenFD(t.parent, t.name, flags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: t.target.String(), Err: err}
	}
	return os.NewFile(uintptr(fd), t.target.String()), nil
}

// checkUnused refuses a target where a mount would hide something, or whose file type is not the
// one to mount on. Errors: ErrInUse.
func (t *openTarget) checkUnused(st state, want uint32) error {
	switch fileType := st.fileType(); {
	case fileType != want:
		return fmt.Errorf("%w: %s has file type %#o, on which this volume cannot be mounted: remove it",
			volume.ErrInUse, t.target, fileType)
	case fileType == unix.S_IFDIR:
		return t.checkEmptyDir()
	case st.size != 0:
		return fmt.Errorf("%w: %s is a file of %d bytes and not a mount: move it away",
			volume.ErrInUse, t.target, st.size)
	default:
		return nil
	}
}

func (t *openTarget) checkEmptyDir() error {
	d, err := t.openWith(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look whether %s is empty: %w", t.target, err)
	}
	return fmt.Errorf(
		"%w: directory %s is not a mount and not empty, it has %q: move its content away",
		volume.ErrInUse, t.target, names[0])
}

// remove removes what create has made, never more: a directory or a file, if it is empty.
func (t *openTarget) remove() error {
	st, err := t.stat()
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: t.target.String(), Err: err}
	}
	switch fileType := st.fileType(); {
	case fileType == unix.S_IFDIR:
		err = unix.Unlinkat(t.parent, t.name, unix.AT_REMOVEDIR)
	case fileType == unix.S_IFREG && st.size == 0:
		err = unix.Unlinkat(t.parent, t.name, 0)
	default:
		return fmt.Errorf("%w: %s is not a mount and not an empty file: "+
			"the driver did not make it and does not remove it", volume.ErrInUse, t.target)
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTEMPTY):
		return fmt.Errorf("%w: directory %s is not a mount and not empty: move its content away",
			volume.ErrInUse, t.target)
	default:
		return &os.PathError{Op: "remove", Path: t.target.String(), Err: err}
	}
}
