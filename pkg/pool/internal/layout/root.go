package layout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// openRoot opens the pool's directory, after making it where the options let it. Errors:
// ErrUnavailable, and os.ErrNotExist where nothing is and nothing may be made.
func (d *Dir) openRoot(opts Options) error {
	nearest, rest, err := mount.OpenNearest(opts.Path)
	if err != nil {
		return fmt.Errorf("%w: %w", volume.ErrUnavailable, err)
	}
	d.Root = openat.Dir{File: nearest} // closed with the Dir, also after an error
	if rest != "" && (opts.MustExist || opts.RequireMountpoint || opts.WasOpen) {
		return fmt.Errorf("%w: nothing is at %s where the driver runs: mount the pool's disk; "+
			"in a container, is the directory above it mounted (the chart's hostDirectories)? %w",
			volume.ErrUnavailable, opts.Path, os.ErrNotExist)
	}
	if err := checkRoot(nearest, rest, opts); err != nil || rest == "" {
		return err
	}
	if d.Root, err = makeRoot(opts.Path); err != nil {
		return errors.Join(err, nearest.Close())
	}
	// Again, for the opened directory: the path may have changed since.
	return errors.Join(nearest.Close(), checkRoot(d.Root.File, "", opts))
}

// checkRoot refuses a directory where the pool must not be, or whose filesystem does not do what
// the options require, before anything is made or changed there. The pool is to be at the rest
// below the directory. Errors: ErrUnavailable.
func checkRoot(d *os.File, rest string, opts Options) error {
	if opts.Admit != nil {
		if err := opts.Admit(d, rest); err != nil {
			return err
		}
	}
	if opts.RequireMountpoint {
		if err := checkMountpoint(d); err != nil {
			return err
		}
	}
	if opts.CheckFilesystem != nil {
		return opts.CheckFilesystem(openat.Dir{File: d})
	}
	return nil
}

// checkMountpoint refuses a directory where no filesystem is mounted. Errors: ErrUnavailable.
func checkMountpoint(d *os.File) error {
	err := mount.CheckMountpoint(d)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, mount.ErrNoMountpoint):
		return volume.Because(volume.ReasonNotMounted, fmt.Errorf(
			"%w: no filesystem is mounted there, and requireMountpoint is set: mount the pool's disk (%w)",
			volume.ErrUnavailable, err))
	}
	return fmt.Errorf("%w: %w", volume.ErrUnavailable, err)
}

// makeRoot makes the pool's directory with its parents, durably, and opens it.
func makeRoot(path string) (openat.Dir, error) {
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return openat.Dir{}, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return openat.Dir{}, err
	}
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return openat.Dir{}, err
	}
	return openat.Dir{File: f}, syncPath(parent)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// checkMayBeMade refuses to make a pool where another one was open, unless a disk has been mounted
// there since: the directory below the pool's disk is not the pool. Errors: ErrUnavailable.
func checkMayBeMade(root openat.Dir, opts Options) error {
	if !opts.WasOpen {
		return nil
	}
	err := mount.CheckMountpoint(root.File)
	if errors.Is(err, mount.ErrNoMountpoint) {
		err = volume.Because(volume.ReasonNotMounted, fmt.Errorf(
			"%w: the pool that was open at this path is gone: mount its disk there, or move its "+
				"directory back (for an empty pool in this directory, restart the driver)",
			volume.ErrUnavailable))
	}
	return err
}
