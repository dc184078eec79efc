package hostpath

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// checkLocation refuses an open file that shows a forbidden directory, its content or its parents
// under another name: through a bind mount above the file, or one below it. Paths do not reveal
// that; locations in the filesystems do. Errors: ErrForbidden.
func (r *Rules) checkLocation(host openat.Dir, f *os.File, rule Rule, use Use) error {
	mounts, err := mount.Table()
	if err != nil {
		return err
	}
	exposed, err := mount.Exposed(mounts, f)
	if err != nil {
		return fmt.Errorf("host path %s: %w", use.Path, err)
	}
	for _, name := range r.forbiddenTo(rule) {
		if name == "/dev" && use.Type.IsDevice() {
			continue // the rule names this single device
		}
		forbidden, exists, err := locate(host, mounts, name)
		if err != nil {
			return fmt.Errorf("%w: look where %s is: %w", volume.ErrUnavailable, name, err)
		}
		if exists && slices.ContainsFunc(exposed, forbidden.Overlaps) {
			return fmt.Errorf(
				"%w: host path %s shows %s under another name, and that is never offered%s, nor what is in it or above it",
				volume.ErrForbidden, use.Path, name, unlessReadOnly(name))
		}
	}
	return nil
}

// locate returns the location of a directory of the host. It follows links: a directory is
// forbidden wherever its name leads.
func locate(
	host openat.Dir, mounts []mount.Mount, name string,
) (location mount.Location, exists bool, err error) {
	f, err := host.Resolve(strings.TrimPrefix(name, "/"), unix.O_PATH, openat.InRoot)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return mount.Location{}, false, nil
	}
	if err != nil {
		return mount.Location{}, false, err
	}
	defer f.Close()
	location, err = mount.LocateIn(mounts, f)
	return location, true, err
}
