package projquota

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// assignBatch is how many names of a directory are in memory at a time.
	assignBatch = 64
	// assignDepth is how many levels of directories a tree may have; one of each is open. A path of
	// PATH_MAX can name as many.
	assignDepth = 2048
)

// treeWalk visits everything below a directory. The content is a pod's, which may be changing it:
// no link is followed, and only directories and regular files are opened and visited. (Other files
// have almost no blocks.) Paths start at the directory.
type treeWalk struct {
	visit func(f *os.File, path string) error
	// special, if set, is called for what is neither a directory nor a regular file.
	special func(unix.Stat_t)
	// failed is asked after an error of a path. The walk ends with the error that it returns, and goes
	// on without that path if it returns nil.
	failed func(path string, err error) error
}

// below visits everything below an open directory. A tree with more than that many levels is an
// error.
func (w treeWalk) below(d *os.File, path string, levels int) error {
	if levels == 0 {
		return fmt.Errorf("it has more than %d levels of directories", assignDepth)
	}
	for {
		names, err := d.Readdirnames(assignBatch)
		for _, name := range names {
			at := filepath.Join(path, name)
			if err := w.entry(d, name, at, levels); err != nil {
				if err := w.failed(at, err); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (w treeWalk) entry(dir *os.File, name, path string, levels int) error {
	f, st, err := openPlain(dir, name)
	if f == nil {
		if err == nil && st.Mode != 0 && w.special != nil {
			w.special(st)
		}
		return err
	}
	defer f.Close()
	if err := w.visit(f, path); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	return w.below(f, path, levels-1)
}

// assignProject gives everything in a directory a project ID.
func assignProject(d *os.File, id volume.QuotaID) error {
	w := treeWalk{
		visit: func(f *os.File, _ string) error {
			_, err := ensureProject(f, id)
			return err
		},
		failed: func(_ string, err error) error { return err },
	}
	return w.below(d, "", assignDepth)
}

// IsProjectID says whether a quota ID is a project ID of a volume.
func IsProjectID(id volume.QuotaID) bool {
	return id >= firstQuotaID && id-firstQuotaID < quotaIDCount
}

// Report is what Recharge tells of a volume. Paths start at the volume's data.
type Report struct {
	// Found is called for each directory and regular file that counts for another project than the
	// volume. It returns whether the file is to count for the volume.
	Found func(path string, project volume.QuotaID) bool
	// Failed is called for what could not be looked at.
	Failed func(path string, err error)
}

// Recharge finds what is in the data of a volume and counts for another project, because its owner
// has changed that. The data is open for reading, and stays the caller's; a pod may use it
// meanwhile. Errors: errors.ErrUnsupported if the quota ID is no project ID of a volume.
func Recharge(data *os.File, id volume.QuotaID, r Report) error {
	if !IsProjectID(id) {
		return errors.ErrUnsupported
	}
	w := treeWalk{
		visit: func(f *os.File, path string) error {
			a, err := getAttributes(f)
			if err != nil || volume.QuotaID(a.project) == id {
				return err
			}
			if r.Found(path, volume.QuotaID(a.project)) {
				_, err = ensureProject(f, id)
			}
			return err
		},
		failed: func(path string, err error) error {
			r.Failed(path, err)
			return nil
		},
	}
	if err := w.visit(data, ""); err != nil {
		return err
	}
	info, err := data.Stat()
	if err != nil || !info.IsDir() {
		return err
	}
	return w.below(data, "", assignDepth)
}

// openPlain opens a directory or a regular file. It returns no file for what is neither, and no
// state either for what is gone or is a mount. The type is known before the file is opened for
// reading, because opening another type may have effects; an O_PATH descriptor has none.
func openPlain(dir *os.File, name string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	f, err := openat.Dir{File: dir}.Resolve(name, unix.O_PATH, openat.OnMount)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return nil, st, nil // nothing of that name is the volume's
	}
	if err != nil {
		return nil, st, err
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, st, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return nil, st, nil
	}
	// Without O_NONBLOCK a process that has a lease on the file (fcntl(2), F_SETLEASE) would delay the
	// start, by 45 s each time.
	plain, err := openat.Reopen(f, unix.O_RDONLY|unix.O_NONBLOCK)
	return plain, st, err
}
