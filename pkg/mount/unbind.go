package mount

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/pkg/failpoint"
	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// maxStacked bounds how many mounts one call takes off a target. The driver itself mounts one.
const maxStacked = 64

// Unbind takes every mount off the target and removes the directory or file that Bind has made
// there. It removes nothing that has content. If the target does not exist, it does nothing.
// Errors: ErrInUse.
func Unbind(t Target) error { return unbind(t, (*openTarget).unmountTop) }

// UnbindBusy is Unbind for a target that a process uses. The process keeps the mounts, and nobody
// else sees them any more (MNT_DETACH of umount(2)).
func UnbindBusy(t Target) error { return unbind(t, (*openTarget).detachTop) }

func unbind(t Target, unmountTop func(*openTarget) error) error {
	at, err := t.open()
	if err != nil {
		return ignoreNotExist(err)
	}
	defer at.close()
	if err := at.unmountAll(unmountTop); err != nil {
		return err
	}
	err = at.remove()
	failpoint.Here("unpublish.target-removed")
	return err
}

// Unmount takes every mount off the target and leaves the directory, which is the caller's. If the
// target does not exist, it does nothing. Errors: ErrInUse.
func Unmount(t Target) error {
	at, err := t.open()
	if err != nil {
		return ignoreNotExist(err)
	}
	defer at.close()
	return at.unmountAll((*openTarget).unmountTop)
}

func (t *openTarget) unmountAll(unmountTop func(*openTarget) error) error {
	for range maxStacked {
		st, err := t.stat()
		if errors.Is(err, unix.ENOENT) || err == nil && !st.mountRoot {
			return nil
		}
		// A dead disk answers with another error: then something is mounted, and has to go.
		if err := unmountTop(t); err != nil {
			return err
		}
		failpoint.Here("unmounted")
	}
	return fmt.Errorf("%w: more than %d mounts are stacked on %s",
		volume.ErrInUse, maxStacked, t.target)
}

const (
	// A process that looks at a mount point makes it busy for a moment: a monitoring agent, or a
	// pool that is being opened.
	busyTries = 5
	busyPause = 10 * time.Millisecond
)

// unmountTop takes the topmost mount off the target. The parent is named by its descriptor, and the
// last component is not followed.
func (t *openTarget) unmountTop() error {
	name := openat.PathOfFD(t.parent) + "/" + t.name
	err := unix.Unmount(name, unix.UMOUNT_NOFOLLOW)
	for try := 1; errors.Is(err, unix.EBUSY) && try < busyTries; try++ {
		if t.hasMountsBelow() {
			// Detach the mount together with those below it. They cannot be unmounted one by one:
			// their paths lead through the volume, where a pod may exchange a directory for a link.
			err = unix.Unmount(name, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
			break
		}
		time.Sleep(busyPause)
		err = unix.Unmount(name, unix.UMOUNT_NOFOLLOW)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: a process of the host still uses the mount at %s: see fuser -m",
			volume.ErrInUse, t.target)
	default:
		return &os.PathError{Op: "unmount", Path: t.target.String(), Err: err}
	}
}

// detachTop takes the topmost mount off the target, also while somebody uses it.
func (t *openTarget) detachTop() error {
	name := openat.PathOfFD(t.parent) + "/" + t.name
	if err := unix.Unmount(name, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
		return &os.PathError{Op: "unmount", Path: t.target.String(), Err: err}
	}
	return nil
}

// hasMountsBelow reports whether the mount table has mounts below the target; if the table cannot
// be read, it reports none. It is for the rare target that is busy. The table has resolved paths,
// in which kubelet's directory may have another name.
func (t *openTarget) hasMountsBelow() bool {
	parent, err := os.Readlink(openat.PathOfFD(t.parent))
	if err != nil {
		return false
	}
	mounts, err := Table()
	return err == nil && slices.ContainsFunc(mounts, func(m Mount) bool {
		rest, isBelow := below(path.Join(parent, t.name), m.Point)
		return isBelow && rest != ""
	})
}
