package projquota

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	// retagBatch is how many names of a directory are read at a time.
	retagBatch = 64
	// retagDepth is how many directories are open at most, one below the other: as many as a path
	// of PATH_MAX can name.
	retagDepth = 2048
)

// retag gives everything in a directory a project ID: what was copied here, with its record and
// without its ID, has none. The content is a pod's, which may be writing: no link is followed and
// nothing but directories and regular files is opened. (What is neither has no blocks worth
// counting.) Every level holds a descriptor: what is deeper than levels is an error.
func retag(d *os.File, id volume.QuotaID, levels int) error {
	if levels == 0 {
		return fmt.Errorf("it has more than %d levels of directories", retagDepth)
	}
	for {
		names, err := d.Readdirnames(retagBatch)
		for _, name := range names {
			if err := retagEntry(d, name, id, levels); err != nil {
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

func retagEntry(dir *os.File, name string, id volume.QuotaID, levels int) error {
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
	return retag(f, id, levels-1)
}

// openPlain opens a directory or a regular file; nil for what is neither, is gone, or is a mount.
// The type is looked at before anything is opened that could do something at that: a descriptor
// with O_PATH does not.
func openPlain(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return nil, nil //nolint:nilnil // it is none of ours
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return nil, nil //nolint:nilnil // as above
	}
	// A lease on it (fcntl(2), F_SETLEASE) would keep the start waiting, for 45 s each time.
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK, 0)
}
