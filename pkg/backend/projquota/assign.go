package projquota

import (
	"errors"
	"fmt"
	"io"
	"os"

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

// assignProject gives everything in a directory a project ID. The content is a pod's, which may be
// changing it: no link is followed, and only directories and regular files are opened. (Other files
// have almost no blocks.) A tree with more levels than that is an error.
func assignProject(d *os.File, id volume.QuotaID, levels int) error {
	if levels == 0 {
		return fmt.Errorf("it has more than %d levels of directories", assignDepth)
	}
	for {
		names, err := d.Readdirnames(assignBatch)
		for _, name := range names {
			if err := assignEntry(d, name, id, levels); err != nil {
				return err
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

func assignEntry(dir *os.File, name string, id volume.QuotaID, levels int) error {
	f, err := openPlain(dir, name)
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	if _, err := ensureProject(f, id); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil || !info.IsDir() {
		return err
	}
	return assignProject(f, id, levels-1)
}

// openPlain opens a directory or a regular file; nil for what is neither, is gone, or is a mount.
// The type is known before the file is opened for reading, because opening another type may have
// effects; an O_PATH descriptor has none.
func openPlain(dir *os.File, name string) (*os.File, error) {
	f, err := openat.Dir{File: dir}.Resolve(name, unix.O_PATH, openat.OnMount)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return nil, nil //nolint:nilnil // nothing of that name is the volume's
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return nil, nil //nolint:nilnil // as above
	}
	// Without O_NONBLOCK a process that has a lease on the file (fcntl(2), F_SETLEASE) would delay the
	// start, by 45 s each time.
	return openat.Reopen(f, unix.O_RDONLY|unix.O_NONBLOCK)
}
