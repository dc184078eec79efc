// Package gittree keeps the files of a git repository in a volume, and exchanges them for those of
// another commit while pods read them. Beneath the directory of the volume's data it has:
//
//	content/                  what pods see (Dir)
//	content/NAME/             the tree of a commit: a real directory
//	content/.hostpath-commit  the commit: hexadecimal digits and a newline
//	content/SIGNAL            the same, if there is a signal file
//	building/new-RANDOM/      a tree that is being written
//	building/old-TIME-RANDOM/ a tree that was replaced at that Unix time
//
// A tree's root has its commit as an extended attribute. So the commit goes with the tree when
// renameat2(2) exchanges two of them, and a crash cannot separate them.
//
// The archive that a tree is written from comes from a process that talks to hostile servers. The
// package trusts nothing in it.
package gittree

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// CommitFile is the name of the file beside the tree that says which commit the tree is of.
const CommitFile = ".hostpath-commit"

// DefaultGrace is how long a tree stays after it was replaced.
const DefaultGrace = time.Minute

const (
	contentDir  = "content"
	buildingDir = "building"
	// commitAttribute is of a tree's root. Only root can see and change trusted attributes (xattr(7)).
	commitAttribute = "trusted.csi-hostpath.commit"
)

// Options are those of a content.
type Options struct {
	// SignalFile is the name of a file beside the tree that is written again after each exchange.
	// Empty: there is none.
	SignalFile string
	// Grace is how long a tree stays after it was replaced, for those who have its files open.
	// 0: DefaultGrace.
	Grace time.Duration
}

// Content is the tree of one repository in one volume. Its methods may be called concurrently.
type Content struct {
	name              string
	opts              Options
	content, building openat.Dir
	// leftovers are entries of building that Open could not name as trees that were replaced.
	leftovers []string
	// replacing is locked during Replace, and removing while old trees are removed.
	replacing, removing sync.Mutex

	mu     sync.Mutex // for what follows
	commit string
	// described: the files beside the tree name its commit.
	described bool
}

// Open opens the content in a volume, or makes an empty one. data is the directory of the volume's
// data; the caller keeps it and may close it. name is the name of the tree's directory. Open
// repairs what a crash has left, in a time that does not grow with the trees: RemoveOld removes
// them. Errors: volume.ErrInvalid for a name, volume.ErrPrecondition for a filesystem without
// extended attributes, volume.ErrNoSpace, volume.ErrCorrupt.
func Open(data *os.File, name string, opts Options) (*Content, error) {
	if err := opts.check(name); err != nil {
		return nil, err
	}
	c := &Content{name: name, opts: opts}
	if err := c.open(openat.Dir{File: data}); err != nil {
		return nil, fmt.Errorf("open the content of %q: %w", name, errors.Join(outOfSpace(err),
			c.closeDirs()))
	}
	return c, nil
}

func (o *Options) check(name string) error {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	for what, n := range map[string]string{"directory of a tree": name, "signal file": o.SignalFile} {
		if n == "" && what == "signal file" {
			continue
		}
		if err := checkName(n); err != nil || n == CommitFile {
			return fmt.Errorf("%w: %s cannot be the name of the %s: want a name without a slash other "+
				"than .git and %s", volume.ErrInvalid, quote(n), what, CommitFile)
		}
	}
	if name == o.SignalFile {
		return fmt.Errorf("%w: the signal file is named %s as the tree's directory is: want another name",
			volume.ErrInvalid, quote(name))
	}
	return nil
}

func (c *Content) open(data openat.Dir) (err error) {
	if c.building, err = openDir(data, buildingDir, 0o700); err != nil {
		return err
	}
	if c.content, err = openDir(data, contentDir, 0o755); err != nil {
		return err
	}
	if c.commit, err = c.readCommit(); err != nil {
		return err
	}
	if err := c.demoteLeftovers(time.Now()); err != nil {
		return err
	}
	if err := c.describe(); !isOutOfSpace(err) {
		return err
	}
	return nil // RemoveOld makes room and does it then
}

// openDir makes a directory if it does not exist, and opens it. It gives it that mode and root as
// its owner: a volume's data may have a group that what is made in it inherits.
func openDir(data openat.Dir, name string, mode uint32) (openat.Dir, error) {
	err := unix.Mkdirat(int(data.Fd()), name, mode)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return openat.Dir{}, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	d, err := data.OpenUnmounted(name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: %s is not a directory", volume.ErrCorrupt, name)
	}
	if err != nil {
		return openat.Dir{}, err
	}
	if err := setOwner(d, mode); err != nil {
		d.Close()
		return openat.Dir{}, err
	}
	return d, nil
}

// setOwner writes only what differs, so that it needs no room on a full disk.
func setOwner(d openat.Dir, mode uint32) error {
	if err := openat.RemoveACLs(d.File); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.FD(), &st); err != nil {
		return &os.PathError{Op: "stat", Path: d.Name(), Err: err}
	}
	if st.Uid != 0 || st.Gid != 0 {
		if err := unix.Fchown(d.FD(), 0, 0); err != nil {
			return &os.PathError{Op: "chown", Path: d.Name(), Err: err}
		}
	}
	if st.Mode&0o7777 == mode {
		return nil
	}
	if err := unix.Fchmod(d.FD(), mode); err != nil {
		return &os.PathError{Op: "chmod", Path: d.Name(), Err: err}
	}
	return nil
}

// readCommit returns the commit of the tree that pods see. It is empty if there is no tree, and if
// the tree's attribute was lost: then the next tree replaces it.
func (c *Content) readCommit() (string, error) {
	tree, err := c.content.OpenUnmounted(c.name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "", nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return "", fmt.Errorf("%w: %s/%s is not a directory", volume.ErrCorrupt, contentDir, c.name)
	case err != nil:
		return "", err
	}
	defer tree.Close()
	return commitOf(tree)
}

// commitOf reads a tree's attribute.
func commitOf(tree openat.Dir) (string, error) {
	value := make([]byte, commitDigits+1)
	n, err := unix.Fgetxattr(tree.FD(), commitAttribute, value)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ERANGE):
		return "", nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return "", noAttributes()
	case err != nil:
		return "", &os.PathError{Op: "read " + commitAttribute, Path: tree.Name(), Err: err}
	}
	if commit := string(value[:n]); isCommit(commit) {
		return commit, nil
	}
	return "", nil
}

func noAttributes() error {
	return fmt.Errorf("%w: the pool's filesystem has no extended attributes: content of git needs "+
		"XFS, ext4, btrfs or another one that has", volume.ErrPrecondition)
}

// Commit is the commit of the tree that pods see: 40 hexadecimal digits. It is empty before the
// first tree.
func (c *Content) Commit() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commit
}

// Dir opens the directory to be mounted for pods, with O_PATH. The caller closes it.
func (c *Content) Dir() (*os.File, error) {
	return c.content.OpenFile(".", unix.O_PATH|unix.O_DIRECTORY, 0)
}

// Dir opens the directory to be mounted for pods, as Content.Dir does, but looks at nothing else:
// an exchange may be under way. data is the directory of the volume's data. Errors: os.ErrNotExist
// when the volume never had a Content.
func Dir(data *os.File) (*os.File, error) {
	return openat.Dir{File: data}.OpenFile(contentDir,
		unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// Close waits for Replace and RemoveOld, and gives the descriptors back. It changes nothing on
// disk. The Content cannot be used afterwards.
func (c *Content) Close() error {
	c.replacing.Lock()
	defer c.replacing.Unlock()
	c.removing.Lock()
	defer c.removing.Unlock()
	return c.closeDirs()
}

func (c *Content) closeDirs() error {
	var errs []error
	for _, d := range []openat.Dir{c.content, c.building} {
		if d.File != nil {
			errs = append(errs, d.Close())
		}
	}
	return errors.Join(errs...)
}

// describing lists the files beside the tree that say its commit.
func (c *Content) describing() []string {
	if c.opts.SignalFile == "" {
		return []string{CommitFile}
	}
	return []string{CommitFile, c.opts.SignalFile} // the signal comes last
}

// describe makes the files beside the tree say its commit. It writes only what differs.
func (c *Content) describe() error {
	commit := c.Commit()
	for _, name := range c.describing() {
		if said, err := c.readSaid(name); err != nil || said == commit {
			if err != nil {
				return err
			}
			continue
		}
		if commit == "" {
			if err := unix.Unlinkat(c.content.FD(), name, 0); err != nil {
				return &os.PathError{Op: "unlink", Path: name, Err: err}
			}
			continue
		}
		if err := c.writeAside(name, commit); err != nil {
			return err
		}
		if err := c.putInPlace(name); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.described = true
	return nil
}

// readSaid returns the commit that a file beside the tree says; empty if the file does not exist.
func (c *Content) readSaid(name string) (string, error) {
	text, err := c.content.ReadFile(name, make([]byte, commitDigits+2), openat.OnMount)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "", nil
	case err != nil:
		return "", err
	}
	if n := len(text) - 1; n == commitDigits && text[n] == '\n' {
		return string(text[:n]), nil
	}
	return string(text) + " (not a commit)", nil
}

// aside is the name of a file beside the tree before it is shown. A signal file's own may have as
// many bytes as a name can have.
func aside(name string) string {
	if name == CommitFile {
		return asidePrefix + "commit"
	}
	return asidePrefix + "signal"
}

// writeAside writes what a file beside the tree is to say. A power cut may lose what it writes;
// then Open writes it again.
func (c *Content) writeAside(name, commit string) error {
	unsynced := func(*os.File) error { return nil }
	if err := c.building.WriteTmpFile(aside(name), []byte(commit+"\n"), unsynced); err != nil {
		return err
	}
	if err := unix.Fchmodat(c.building.FD(), aside(name), modeFile, 0); err != nil {
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	return nil
}

// putInPlace shows what writeAside has written.
func (c *Content) putInPlace(name string) error {
	err := unix.Renameat(c.building.FD(), aside(name), c.content.FD(), name)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: asidePrefix + name, New: name, Err: err}
	}
	return nil
}
