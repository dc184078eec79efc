package hostpath

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/mount"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// checkPlace refuses a descriptor that shows a forbidden directory, what is in one, or what is
// above one, by another name: through a bind mount on the way, or one below. Names cannot say that;
// where things stand in their filesystems can. Errors: ErrForbidden.
func (r *Rules) checkPlace(host, f *os.File, rule Rule, use Use) error {
	mounts, err := mount.Table()
	if err != nil {
		return err
	}
	shown, err := mount.Shown(mounts, f)
	if err != nil {
		return fmt.Errorf("host path %s: %w", use.Path, err)
	}
	for _, name := range r.forbiddenTo(rule) {
		if name == "/dev" && use.Type.IsDevice() {
			continue // the rule names this single device
		}
		place, exists, err := locate(host, mounts, name)
		if err != nil {
			return fmt.Errorf("%w: look where %s is: %w", volume.ErrUnavailable, name, err)
		}
		if exists && slices.ContainsFunc(shown, place.Overlaps) {
			return fmt.Errorf(
				"%w: host path %s shows %s under another name, and that is never offered%s, nor what is in it or above it",
				volume.ErrForbidden,
				use.Path,
				name,
				unlessReadOnly(name),
			)
		}
	}
	return nil
}

// locate follows links, within the host's tree: a directory is forbidden wherever its name leads.
func locate(
	host *os.File, mounts []mount.Mount, name string,
) (place mount.Location, exists bool, err error) {
	fd, err := openInRoot(host, name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return mount.Location{}, false, nil
	}
	if err != nil {
		return mount.Location{}, false, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	place, err = mount.LocateIn(mounts, f)
	return place, true, err
}

// resolveTries bounds how often a path is resolved anew: each time something else was renamed, or
// mounted, somewhere on the node.
const resolveTries = 1000

// openInRoot resolves a path with its links. Of a link with ".." in it, such as /var/run → ../run,
// the kernel does not know where it led if anything was renamed meanwhile, by whomever and wherever
// (openat2(2), EAGAIN): a pod can do that all day.
func openInRoot(host *os.File, name string) (fd int, err error) {
	for range resolveTries {
		fd, err = unix.Openat2(int(host.Fd()), strings.TrimPrefix(name, "/"), &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return fd, err
}
